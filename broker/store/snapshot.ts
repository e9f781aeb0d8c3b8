/**
 * All entries of a store as they were at one moment. The store keeps what is overwritten meanwhile, so a snapshot is not to be held for long, and always to
 * be closed.
 */
export type Snapshot = {
  /** The next page of entries, in the order of their keys; an empty one at the end. */
  next(): Promise<readonly (readonly [key: string, value: string])[]>;
  /** Closing twice is harmless. */
  close(): Promise<void>;
};
