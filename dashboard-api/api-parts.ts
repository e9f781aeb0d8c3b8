import type { FastifyBaseLogger, FastifyInstance, RawServerDefault } from 'fastify';
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox';
import type { Logger } from 'pino';
import type { CommandIssuer } from '../broker/commands/issue-command.ts';
import type { CommandLedger } from '../broker/commands/command-ledger.ts';
import type { Dispatcher } from '../broker/commands/dispatcher.ts';
import type { Notifier } from '../broker/commands/notifier.ts';
import type { ParkedPolls } from '../broker/commands/parked-polls.ts';
import type { CommandPull } from '../broker/commands/pull.ts';
import type { DeviceSync } from '../broker/commands/sync.ts';
import type { CommandQueries } from '../broker/commands/command-queries.ts';
import type { Audit } from '../broker/audit.ts';
import type { Limits } from '../broker/limits/limits.ts';
import type { LiveEvents } from '../broker/live-events.ts';
import type { Metrics } from '../broker/metrics.ts';
import type { DeviceLogin } from '../broker/registry/device-login.ts';
import type { DeviceRegistry } from '../broker/registry/device-registry.ts';
import type { FleetKeys } from '../broker/registry/fleet-keys.ts';
import type { IdentityProvider } from '../broker/registry/identity-provider.ts';
import type { OperatorAccess } from '../broker/registry/operator-access.ts';
import type { OperatorKeys } from '../broker/registry/operator-keys.ts';
import type { PresenceTracker } from '../broker/registry/presence-tracker.ts';
import type { RefusedLogins } from '../broker/refused-logins.ts';
import type { History } from '../broker/store/history.ts';
import type { Quarantine } from '../broker/store/quarantine.ts';
import type { Shipper } from '../broker/store/shipper.ts';
import type { Ingest } from '../broker/telemetry/ingest.ts';
import type { LatestValues } from '../broker/telemetry/latest-values.ts';
import type { Rejects } from '../broker/telemetry/rejects.ts';
import type { Clock } from '../devices/clock.ts';

/** What the API stands on. */
export type ApiParts = {
  readonly registry: DeviceRegistry;
  readonly deviceLogin: DeviceLogin;
  readonly keys: OperatorKeys;
  readonly access: OperatorAccess;
  readonly fleetKeys: FleetKeys;
  /** Undefined when there is none. */
  readonly identityProvider: IdentityProvider | undefined;
  readonly audit: Audit;
  readonly refusedLogins: RefusedLogins;
  readonly limits: Limits;
  readonly presence: PresenceTracker;
  readonly ledger: CommandLedger;
  readonly dispatcher: Dispatcher;
  readonly notifier: Notifier;
  readonly issuer: CommandIssuer;
  readonly pull: CommandPull;
  readonly sync: DeviceSync;
  readonly parkedPolls: ParkedPolls;
  readonly queries: CommandQueries;
  readonly ingest: Ingest;
  readonly latest: LatestValues;
  readonly rejects: Rejects;
  readonly quarantine: Quarantine;
  readonly events: LiveEvents;
  readonly metrics: Metrics;
  readonly history: History;
  readonly shipper: Shipper;
  readonly clock: Clock;
  readonly log: Logger;
  /** Why the server cannot do its job now, one sentence each; empty when it can. */
  problems(): Promise<string[]>;
  readonly version: string;
};

/** Fastify, with request types taken from the schema beside each route. */
export type Api = FastifyInstance<RawServerDefault, IncomingMessage, ServerResponse, FastifyBaseLogger, TypeBoxTypeProvider>;
