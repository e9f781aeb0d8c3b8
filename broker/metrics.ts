import { Counter, Gauge, Histogram, Registry, collectDefaultMetrics } from 'prom-client';

/** A count that goes up with every message, and so is a plain number until `/metrics` is asked. */
class Tally {
  count = 0;

  inc(by = 1): void {
    this.count += by;
  }
}

class Tallies {
  readonly #labelNames: readonly string[];
  readonly #tallies: { readonly labels: Record<string, string>; readonly tally: Tally }[] = [];

  constructor(registry: Registry, name: string, help: string, labelNames: readonly string[]) {
    this.#labelNames = labelNames;
    const tallies = this.#tallies;
    new Counter({
      name,
      help,
      labelNames: [...labelNames],
      registers: [registry],
      collect() {
        this.reset();
        for (const { labels, tally } of tallies) this.inc(labels, tally.count);
      },
    });
  }

  /** A tally with these values of the labels, in their order; call it once and keep what it gives. */
  labels(...values: readonly string[]): Tally {
    const tally = new Tally();
    this.#tallies.push({ labels: Object.fromEntries(this.#labelNames.map((name, i) => [name, values[i] ?? ''])), tally });
    return tally;
  }
}

/** Gauges of prom-client's that are called as counters are, beside others that say more. */
const MISNAMED = ['nodejs_active_handles_total', 'nodejs_active_requests_total', 'nodejs_active_resources_total'];

/** What `/metrics` shows (Prometheus). Gauges read their sources when they are asked. */
export class Metrics {
  readonly registry = new Registry();

  readonly messages = new Tallies(this.registry, 'downlink_messages_total', 'Messages taken from devices', ['transport', 'kind']);
  readonly readings = new Tallies(this.registry, 'downlink_readings_total', 'Readings made durable', ['transport']);
  readonly rejects = new Counter({
    name: 'downlink_rejects_total',
    help: 'Messages of devices that were refused',
    labelNames: ['transport', 'code'] as const,
    registers: [this.registry],
  });
  readonly droppedMessages = new Counter({
    name: 'downlink_dropped_messages_total',
    help: 'QoS 0 messages that could not be stored',
    registers: [this.registry],
  });
  readonly commandSteps = new Counter({
    name: 'downlink_command_steps_total',
    help: 'Commands that came to a state, by the transport it happened over',
    labelNames: ['state', 'transport'] as const,
    registers: [this.registry],
  });
  readonly deliverySeconds = new Histogram({
    name: 'downlink_command_delivery_seconds',
    help: 'From the issue of a command (or its notBefore) to its confirmation',
    labelNames: ['transport'] as const,
    buckets: [0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 15, 60, 300, 900, 3_600, 21_600, 86_400],
    registers: [this.registry],
  });
  readonly polls = new Tallies(this.registry, 'downlink_polls_total', 'Polls of devices by the status of their answer', [
    'status',
  ]);
  readonly quarantined = new Counter({
    name: 'downlink_quarantined_rows_total',
    help: 'Rows that History refused by themselves',
    registers: [this.registry],
  });
  readonly historyFailures = new Counter({
    name: 'downlink_history_failures_total',
    help: 'Shipments to History that failed and were tried again',
    registers: [this.registry],
  });
  readonly paced = new Counter({
    name: 'downlink_paced_total',
    help: 'Lots of telemetry whose acknowledgement waited for History to catch up',
    registers: [this.registry],
  });

  readonly damage = new Counter({
    name: 'downlink_damage_total',
    help: 'Losses to damage of the data folder, each told in one line of the log',
    registers: [this.registry],
  });

  constructor() {
    collectDefaultMetrics({ register: this.registry });
    for (const name of MISNAMED) this.registry.removeSingleMetric(name);
  }

  /** A gauge that calls `read` when it is asked; with a label, `read` gives a value for each of its values. */
  gauge(name: string, help: string, read: () => number): void {
    new Gauge({
      name,
      help,
      registers: [this.registry],
      collect() {
        this.set(read());
      },
    });
  }

  labelledGauge(name: string, help: string, label: string, read: () => Iterable<readonly [string, number]>): void {
    new Gauge({
      name,
      help,
      labelNames: [label],
      registers: [this.registry],
      collect() {
        for (const [value, count] of read()) this.set({ [label]: value }, count);
      },
    });
  }
}
