/** A server under load, Downlink or a peer: both speak the same wire, so the load cannot tell them apart. */
export type Target = {
  readonly httpPort: number;
  readonly mqttPort: number;
  readonly operatorKey: string;
  readonly devices: readonly Device[];
  /** Resident memory of its process, octets. */
  readonly residentBytes: () => number;
  /** A value from /metrics, which only Downlink has; labels go with the name. */
  readonly metric?: (name: string) => Promise<number>;
  stop(): Promise<void>;
};

export type Device = { readonly id: string; readonly token: string };
