export function part<State, Value>(topic: import("./planwire.js").Topic<State>, select: (snapshot: import("./planwire.js").Snapshot<State>) => Value): {
    subscribe: (run: (value: Value) => void) => () => void;
};
export function useUsage(topic: import("./planwire.js").Topic<import("./usage.js").Usage>, name: string): {
    subscribe: (run: (value: Readonly<import("./usage.js").Meter>) => void) => () => void;
};
