export function define(topic: import("./planwire.js").Topic, prefix?: string): void;
