export function provider(topic: import("./planwire.js").Topic): {
    metadata: {
        name: string;
    };
    runsOn: "client";
    events: any;
    initialize: () => Promise<void>;
    onClose: () => Promise<any>;
    resolveBooleanEvaluation: (key: string, defaultValue: any) => {
        value: any;
        reason: string;
        errorCode?: undefined;
    } | {
        value: any;
        reason: string;
        errorCode: any;
    };
    resolveStringEvaluation: (key: string, defaultValue: any) => {
        value: any;
        reason: string;
        errorCode?: undefined;
    } | {
        value: any;
        reason: string;
        errorCode: any;
    };
    resolveNumberEvaluation: (key: string, defaultValue: any) => {
        value: any;
        reason: string;
        errorCode?: undefined;
    } | {
        value: any;
        reason: string;
        errorCode: any;
    };
    resolveObjectEvaluation: (key: string, defaultValue: any) => {
        value: any;
        reason: string;
        errorCode?: undefined;
    } | {
        value: any;
        reason: string;
        errorCode: any;
    };
};
