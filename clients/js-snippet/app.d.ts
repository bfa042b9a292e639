export function app<State = import("./planwire.js").Application>(topic: import("./planwire.js").Topic, name: string): import("./planwire.js").Topic<State>;
export type Snapshot = import("./planwire.js").Snapshot;
