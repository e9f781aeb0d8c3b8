import type { Clock } from '../devices/clock.ts';
import { OPEN_STATES } from '../devices/command.ts';
import { PRESENCE_STATES } from '../devices/presence.ts';
import type { CommandLedger } from './commands/command-ledger.ts';
import type { ParkedPolls } from './commands/parked-polls.ts';
import type { Metrics } from './metrics.ts';
import type { Overload } from './overload.ts';
import type { JournalRoom } from './mqtt/journal-room.ts';
import type { MqttServer } from './mqtt/mqtt-server.ts';
import type { DeviceRegistry } from './registry/device-registry.ts';
import type { PresenceTracker } from './registry/presence-tracker.ts';
import type { HistoryPace } from './store/history-pace.ts';
import type { Quarantine } from './store/quarantine.ts';
import type { Shipper } from './store/shipper.ts';
import type { State } from './store/state.ts';

/** Connects the metrics to what they measure. */
export function observe(
  metrics: Metrics,
  parts: {
    ledger: CommandLedger;
    parkedPolls: ParkedPolls;
    overload: Overload;
    registry: DeviceRegistry;
    presence: PresenceTracker;
    state: State;
    shipper: Shipper;
    pace: HistoryPace;
    quarantine: Quarantine;
    mqtt: MqttServer;
    room: JournalRoom;
    clock: Clock;
  },
): void {
  const { ledger, parkedPolls, overload, registry, presence, state, shipper, pace, quarantine, mqtt, room, clock } = parts;
  const { journal } = state;

  ledger.on('stepped', (command, from) => {
    if (command.state === from) return;
    const transport = command.transport ?? 'none';
    metrics.commandSteps.inc({ state: command.state, transport });
    const isConfirmation = command.deliveredAt !== undefined && (from === 'queued' || from === 'sent');
    if (!isConfirmation || command.deliveredAt === undefined) return;
    const dueAt = Math.max(command.queuedAt, command.notBefore ?? 0);
    metrics.deliverySeconds.observe({ transport }, (command.deliveredAt - dueAt) / 1_000);
  });

  metrics.gauge('downlink_mqtt_connections', 'Open MQTT connections', () => mqtt.connections);
  metrics.gauge('downlink_parked_polls', 'Long polls that wait for a command', () => parkedPolls.size);
  metrics.labelledGauge(
    'downlink_pressure',
    'How near the server is to failing, 0 to 1, by what',
    'source',
    () => overload.readings,
  );
  metrics.gauge('downlink_busy', '1 while devices are asked to come later', () => (overload.pressure > 0 ? 1 : 0));
  metrics.gauge('downlink_devices', 'Registered devices', () => registry.size);
  metrics.labelledGauge('downlink_devices_by_presence', 'Registered devices by presence', 'presence', () => {
    const counts = new Map<string, number>(PRESENCE_STATES.map((name) => [name, 0]));
    for (const id of registry.ids()) {
      const { state: name } = presence.presence(id);
      counts.set(name, (counts.get(name) ?? 0) + 1);
    }
    return counts;
  });
  metrics.labelledGauge('downlink_commands_open', 'Open commands by state', 'state', () =>
    OPEN_STATES.map((name) => [name, ledger.book.countIn(name)] as const),
  );
  metrics.gauge('downlink_journal_bytes', 'Octets in the journal that History does not have yet', () => journal.bytes);
  metrics.gauge('downlink_journal_bytes_max', "The journal's bound", () => journal.bytesMax);
  metrics.gauge('downlink_held_messages', 'MQTT messages that wait for room in the journal', () => room.waiting);
  metrics.gauge('downlink_paced', 'Lots of telemetry whose acknowledgement waits for History to catch up', () => pace.held);
  metrics.gauge('downlink_history_lag_seconds', 'Age of the oldest journal record', () =>
    journal.oldestAt === undefined ? 0 : Math.max(0, clock.now() - journal.oldestAt) / 1_000,
  );
  metrics.gauge('downlink_history_up', '1 while History takes rows', () => (shipper.failure === undefined ? 1 : 0));
  metrics.gauge('downlink_quarantine_rows', 'Rows in quarantine', () => quarantine.size);
}
