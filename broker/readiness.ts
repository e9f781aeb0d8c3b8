import type { History } from './store/history.ts';
import type { Shipper } from './store/shipper.ts';
import type { State } from './store/state.ts';

/**
 * Whether the server can do its job. It is ready as long as it takes new work: with InfluxDB away it does, and taking the only server out of service would
 * make a delay of queries into an outage. What is wrong is told either way.
 */
export type Readiness = { readonly isReady: boolean; readonly reasons: readonly string[] };

export async function readiness(state: State, history: History, shipper: Shipper): Promise<Readiness> {
  const refusing: string[] = [];
  const reasons: string[] = [];
  await state.check().catch((error: Error) => refusing.push(error.message));
  const { bytes, bytesMax, isFull } = state.journal;
  if (isFull) refusing.push(`the journal is full: ${bytes} of ${bytesMax} bytes`);
  await history.check().catch((error: Error) => reasons.push(error.message));
  if (shipper.failure !== undefined) reasons.push(`the journal is not being shipped: ${shipper.failure}`);
  return { isReady: refusing.length === 0, reasons: [...refusing, ...reasons] };
}
