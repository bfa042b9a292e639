export function part<State, Value>(topic: import("./planwire.js").Topic<State>, select: (snapshot: import("./planwire.js").Snapshot<State>) => Value): {
    subscribe: (run: (value: Value) => void) => () => void;
};
