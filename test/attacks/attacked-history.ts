import { historyFolder } from '../../broker/data-folder.ts';
import type { History } from '../../broker/store/history.ts';
import { InfluxHistory } from '../../broker/store/influx/influx-history.ts';
import { LevelHistory } from '../../broker/store/level/level-history.ts';
import { influxAt, Influxd } from '../servers/influxd.ts';
import { isMissing } from '../servers/server-paths.ts';

/** Either kind of History behind a server under attack, to be looked into once that has stopped. */
type Kind = 'embedded' | 'InfluxDB';
export const HISTORIES: readonly Kind[] = isMissing('influxd') ? ['embedded'] : ['embedded', 'InfluxDB'];

export class AttackedHistory {
  /** Undefined for the embedded one. */
  readonly influxd: Influxd | undefined;

  private constructor(influxd: Influxd | undefined) {
    this.influxd = influxd;
  }

  static async start(which: Kind): Promise<AttackedHistory> {
    return new AttackedHistory(which === 'InfluxDB' ? await Influxd.start() : undefined);
  }

  /** What a server is to be started with. */
  get config() {
    return this.influxd === undefined ? {} : { influx: influxAt(this.influxd.url) };
  }

  open(dataDir: string): Promise<History> {
    if (this.influxd === undefined) return LevelHistory.open(historyFolder(dataDir), () => {});
    return InfluxHistory.open({ url: this.influxd.url, database: 'downlink' });
  }

  async remove(): Promise<void> {
    await this.influxd?.remove();
  }
}
