import { connect, type IClientOptions, type MqttClient } from 'mqtt';

/** Counts what a device sends and what came of it, by standing in for `fetch` and for the mqtt package's `connect`. */
export type Counts = {
  /** HTTP requests, or MQTT packets sent. */
  requests: number;
  /** 204, 304, PINGRESP. */
  emptyAnswers: number;
};

const EMPTY = new Set([204, 304]);

export function countingFetch(counts: Counts): typeof fetch {
  return async (input, init) => {
    counts.requests += 1;
    const response = await fetch(input, init);
    if (EMPTY.has(response.status)) counts.emptyAnswers += 1;
    return response;
  };
}

export function countingConnect(counts: Counts): (url: string, options: IClientOptions) => MqttClient {
  return (url, options) => {
    const client = connect(url, options);
    client.on('packetsend', () => (counts.requests += 1));
    client.on('packetreceive', ({ cmd }) => {
      if (cmd === 'pingresp') counts.emptyAnswers += 1;
    });
    return client;
  };
}
