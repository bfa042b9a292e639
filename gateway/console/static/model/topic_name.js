/** Topics' names as people read and write them. Pure. The Python twin is `planwire_client.core.topic`. */
import { topic } from "../../client/planwire.js";

const PARTS = /^(?:([a-z][a-z0-9_-]{0,31})\/)?([a-z][a-z0-9_-]{0,31}):([^]+)$/;

/** Decodes what is escaped; a percent sign that begins no escape stays. @param {string} text */
export const decoded = (text) => text.replace(/(?:%[0-9a-f]{2})+/gi, decodeURIComponent);

/**
 * The name of the topic that somebody writes: by its name, or in another spelling, such as `tenant:auth0|5f1c`.
 * @param {string} text
 * @returns {string | null} null: it is not a topic
 */
export const nameOf = (text) => {
  const [, env, kind, id] = PARTS.exec(text) ?? [];
  for (const read of [decoded, String]) {
    try {
      return topic(kind, read(id), env);
    } catch {}
  }
  return null;
};

/** A topic's name for people, with the id decoded, if it is clear and leads to the topic again; else the name. @param {string} name */
export const readable = (name) => {
  try {
    const text = decoded(name);
    return nameOf(text) === name && !/(?! )[\p{C}\p{Z}]/u.test(text) ? text : name;
  } catch {
    return name;
  }
};
