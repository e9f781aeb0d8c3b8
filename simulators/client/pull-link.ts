import { backoffMs, delay } from './backoff.ts';
import type { DeviceCore } from './device-core.ts';
import { HttpUplink } from './http-uplink.ts';
import { jsonHttp } from './json-http.ts';
import { PullRequests, type Ask, type Contact } from './pull-requests.ts';
import { Steadily } from './steadily.ts';
import { SyncRequests } from './sync-requests.ts';
import { WakeTimer, type Schedule } from './wake-timer.ts';

export type PullLinkOptions = {
  /** `http://host:8080`. */
  readonly url: string;
  readonly token: string;
  /**
   * How commands are asked for. `plain`: a GET, confirmed by the reports. `conditional`: with the queue's ETag and the cursor of the last answer, which confirms
   * it; nothing new costs a 304. `long-poll`: the server keeps the request until a command is there. `sync`: one trip a wake, with samples, reports and
   * the cursor in the same request.
   */
  readonly ask: Ask | 'sync';
  readonly schedule: Schedule;
  /** Commands a request, 1..100; 20 unless said otherwise. */
  readonly limit?: number;
  /** Octets of an answer, at most; what does not fit is told to the operator. */
  readonly maxBytes?: number;
  /** How long the server may keep a long poll, 1..60; 60 unless said otherwise. */
  readonly waitSeconds?: number;
  /** `sync`: how long a wake waits for what it began, to report it in the same wake; 2 s unless said otherwise. With 0 each wake is one trip. */
  readonly lingerSeconds?: number;
  /** Another way to send, for tests and simulated faults. */
  readonly fetch?: typeof fetch;
};

/** A device's way over HTTP: wakes by its schedule, sends what waits, takes what is queued. May be started again after `pause`. */
export class PullLink {
  readonly #core: DeviceCore;
  readonly #options: PullLinkOptions;
  readonly #onContact: (contact: Contact) => void;
  readonly #uplink: HttpUplink;
  readonly #steadily: Record<'report' | 'sample', Steadily>;
  readonly #request: (waitSeconds: number, signal: AbortSignal) => Promise<Contact>;
  readonly #stopped = new AbortController();
  #started: AbortController | undefined;
  #timer: WakeTimer | undefined;
  #contact: Promise<Contact> | undefined;

  /** `onContact` is called after each contact, the first included. */
  constructor(core: DeviceCore, options: PullLinkOptions, onContact: (contact: Contact) => void = () => {}) {
    const { url, token, ask, schedule } = options;
    if (schedule === 'always' && ask !== 'long-poll') throw new Error("the schedule 'always' is for long polls");
    const http = jsonHttp({ url, token, ...(options.fetch && { fetch: options.fetch }) });
    this.#core = core;
    this.#options = options;
    this.#onContact = onContact;
    const uplink = new HttpUplink(core, http, this.#stopped.signal);
    this.#uplink = uplink;
    this.#steadily = { report: new Steadily(() => uplink.sendReports()), sample: new Steadily(() => uplink.sendSamples()) };
    if (ask === 'sync') {
      const requests = new SyncRequests(core, http, options);
      this.#request = (_, signal) => requests.contact(signal);
    } else {
      const requests = new PullRequests(core, http, uplink, { ...options, ask });
      this.#request = (waitSeconds, signal) => requests.contact(waitSeconds, signal);
    }
  }

  /** Makes a contact, the first without waiting for commands, then others by the schedule. Resolves with the first one. */
  async start(): Promise<Contact> {
    const started = new AbortController();
    this.#started = started;
    if (this.#isAlwaysOn) for (const steadily of Object.values(this.#steadily)) steadily.resume();
    const first = await this.#contactOnce(0);
    if (started.signal.aborted) return first;
    if (this.#isAlwaysOn) void this.#askAlways(first, started.signal);
    else {
      this.#timer = new WakeTimer(this.#options.schedule, () => this.wake());
      this.#timer.start(first);
    }
    return first;
  }

  get isStarted(): boolean {
    return this.#started !== undefined;
  }

  /** The contact under way, or a new one. Never rejects: `status` 0 is no answer. */
  wake(): Promise<Contact> {
    return this.#contactOnce(this.#options.ask === 'long-poll' ? this.#waitSeconds : 0);
  }

  /** A contact that begins from now on, without waiting for commands: what is there now comes with it. */
  async wakeAnew(): Promise<void> {
    await this.#contact;
    await this.#contactOnce(0);
  }

  /** Something waits: reports go at once, samples only where they need not wait for a wake. One trip a wake has all in it. */
  send(what: 'report' | 'sample'): void {
    if (this.#isAlwaysOn) this.#steadily[what].poke();
    else if (what === 'report') void this.sendReports();
  }

  /** Sends all that waits. Resolves when it is through, or could not be had for a while. */
  async sendAll(): Promise<void> {
    await Promise.all([this.#uplink.sendSamples(), this.#uplink.sendReports()]);
  }

  /** The same of reports, where they have requests of their own. */
  async sendReports(): Promise<void> {
    if (this.#options.ask !== 'sync') await this.#uplink.sendReports();
  }

  /** Asks no more, until `start`. A long poll that is parked goes on to its end: what it brings counts. */
  pause(): void {
    this.#started?.abort();
    this.#started = undefined;
    this.#timer?.stop();
    this.#timer = undefined;
    for (const steadily of Object.values(this.#steadily)) steadily.pause();
  }

  /** Asks no more, and lets go of what is under way. */
  stop(): void {
    this.pause();
    this.#stopped.abort();
  }

  get #isAlwaysOn(): boolean {
    return this.#options.schedule === 'always';
  }

  get #waitSeconds(): number {
    return this.#options.waitSeconds ?? WAIT_SECONDS_DEFAULT;
  }

  /** One long poll after the other; with back-off while the server is away, and no faster than it asks for while it does not keep them. */
  async #askAlways(first: Contact, paused: AbortSignal): Promise<void> {
    let failures = first.status === 0 || first.status >= 400 ? 1 : 0;
    if (failures > 0) await delay(first.sleepMs ?? backoffMs(failures - 1, AWAY), paused);
    while (!paused.aborted) {
      const askedAt = performance.now();
      const { status, sleepMs, brought } = await this.wake();
      if (status === 0 || status >= 400) {
        failures += 1;
        await delay(sleepMs ?? backoffMs(failures - 1, AWAY), paused);
        continue;
      }
      failures = 0;
      const tookMs = performance.now() - askedAt;
      if (brought === 0 && tookMs < SHORT_POLL_MS) await delay(Math.max(SHORT_POLL_MS, sleepMs ?? 0), paused);
    }
  }

  #contactOnce(waitSeconds: number): Promise<Contact> {
    this.#contact ??= this.#request(waitSeconds, this.#stopped.signal)
      .catch((error: Error): Contact => {
        if (!this.#stopped.signal.aborted) this.#core.problem(error);
        return { status: 0, sleepMs: undefined, brought: 0 };
      })
      .then((contact) => {
        this.#contact = undefined;
        this.#onContact(contact);
        return contact;
      });
    return this.#contact;
  }
}

const WAIT_SECONDS_DEFAULT = 60;
/** An empty answer sooner than this is no long poll. */
const SHORT_POLL_MS = 500;
const AWAY = { minMs: 100, maxMs: 60_000 };
