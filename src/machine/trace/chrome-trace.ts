// A recorded trace in the Trace Event Format, for Perfetto and chrome://tracing: a row of guest time and served exits a vCPU.
// "Trace Event Format", complete events (ph X) and metadata (ph M); times are microseconds.
import { deviceNames, exitName, spanOf } from './trace-summary.js';
import type { TraceHeader, TraceRecord } from './trace-format.js';

const PID = 1;

interface TraceEvent {
  readonly name: string;
  readonly cat?: string;
  readonly ph: 'X' | 'M' | 'i';
  readonly ts?: number;
  readonly dur?: number;
  readonly pid: number;
  readonly tid: number;
  readonly s?: 't';
  readonly args?: Readonly<Record<string, unknown>>;
}

/** The whole file as pieces of text, one event a piece: a trace may be longer than a string. */
export function* chromeTrace(header: TraceHeader, records: () => Iterable<TraceRecord>): Generator<string> {
  yield `{"displayTimeUnit":"ns","otherData":${JSON.stringify({ kernel: header.kernel, cmdline: header.cmdline })},"traceEvents":[\n`;
  let separator = '';
  for (const event of events(header, records)) {
    yield separator + JSON.stringify(event);
    separator = ',\n';
  }
  yield '\n]}\n';
}

function* events(header: TraceHeader, records: () => Iterable<TraceRecord>): Generator<TraceEvent> {
  const { first } = spanOf(records());
  const us = (cycles: number): number => (cycles / header.tscKhz) * 1000;
  const nameDevice = deviceNames(header.devices);
  yield { name: 'process_name', ph: 'M', pid: PID, tid: 0, args: { name: header.kernel } };
  for (let vcpu = 0; vcpu < header.cpus; vcpu++)
    yield { name: 'thread_name', ph: 'M', pid: PID, tid: vcpu, args: { name: `vCPU ${vcpu}` } };
  const open = new Map<number, { readonly event: TraceEvent; readonly exited: number }>();
  for (const item of records()) {
    const tid = item.vcpu;
    const served = open.get(tid);
    open.delete(tid);
    if ('lost' in item) {
      if (served !== undefined) yield { ...served.event, ph: 'i', s: 't', args: { lost: item.lost } };
      continue;
    }
    const { entered, exited, access } = item.exit;
    if (served !== undefined) yield { ...served.event, dur: us(entered - served.exited) };
    yield { name: 'guest', cat: 'guest', ph: 'X', ts: us(entered - first), dur: us(exited - entered), pid: PID, tid };
    const args =
      access === undefined
        ? {}
        : { args: { value: `0x${access.value.toString(16)}`, size: access.size, count: access.count } };
    const name = exitName(item.exit, nameDevice);
    const cat = access?.space ?? 'exit';
    open.set(tid, { exited, event: { name, cat, ph: 'X', ts: us(exited - first), pid: PID, tid, ...args } });
  }
  // The last exit of each vCPU was served, too, but nobody saw its end.
  for (const { event } of open.values()) yield { ...event, dur: 0 };
}
