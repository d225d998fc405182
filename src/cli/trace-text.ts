// The summary of a trace for a person: top exits by count and by time, a timeline, and what each device did.
// Unicode block elements for the timeline.
import type { ExitKind, TraceSummary } from '../machine/trace/trace-summary.js';
import type { TraceHeader } from '../machine/trace/trace-format.js';
import { printable } from './sentence.js';

/** Parts of the timeline: they fit a narrow terminal. */
export const TIMELINE_PARTS = 60;
const TOP = 10;
const BARS = ' ▁▂▃▄▅▆▇█';

export function formatSummary(header: TraceHeader, summary: TraceSummary, columns: number): string {
  const { exits, lost, durationMs, insideMs, outsideMs, kinds, devices, timeline } = summary;
  const vcpus = `${header.cpus} vCPU${header.cpus === 1 ? '' : 's'}`;
  const lines = [
    `${header.kernel}, ${vcpus}: ${exits} exits in ${time(durationMs)}${lost > 0 ? `, ${lost} more were lost` : ''}`,
    `in the guest and the kernel ${time(insideMs)}, serving exits ${time(outsideMs)}`,
  ];
  if (exits === 0) return `${lines.join('\n')}\n`;
  const width = Math.max(columns - COUNT_WIDTH - 3 * TIME_WIDTH - 2, 16);
  const table = (title: string, rows: readonly ExitKind[]): string[] => [
    '',
    `${title.padEnd(width)}${'count'.padStart(COUNT_WIDTH)}${['time', 'mean', 'longest'].map((word) => word.padStart(TIME_WIDTH)).join('')}`,
    ...rows
      .slice(0, TOP)
      .map(
        ({ name, count, totalMs, longestMs }) =>
          name.slice(0, width - 1).padEnd(width) +
          String(count).padStart(COUNT_WIDTH) +
          [totalMs, totalMs / count, longestMs].map((ms) => time(ms).padStart(TIME_WIDTH)).join(''),
      ),
  ];
  lines.push(
    ...table(
      'by count',
      kinds.toSorted((a, b) => b.count - a.count),
    ),
    ...table(
      'by time',
      kinds.toSorted((a, b) => b.totalMs - a.totalMs),
    ),
    '',
    `exits over time, ${time(durationMs / TIMELINE_PARTS)} a column`,
    ...timeline.map((row, vcpu) => `  vCPU ${vcpu} ${bars(row)}`),
    '',
    `${'device'.padEnd(DEVICE_WIDTH)}${['reads', 'writes', 'bytes'].map((word) => word.padStart(COUNT_WIDTH)).join('')}  from     until`,
    ...devices.map(
      ({ name, reads, writes, bytes, firstMs, lastMs }) =>
        name.padEnd(DEVICE_WIDTH) +
        [reads, writes, bytes].map((value) => String(value).padStart(COUNT_WIDTH)).join('') +
        `  ${time(firstMs).padEnd(8)} ${time(lastMs)}`,
    ),
  );
  return `${lines.map((line) => printable(line.trimEnd())).join('\n')}\n`;
}

const COUNT_WIDTH = 10;
const TIME_WIDTH = 10;
const DEVICE_WIDTH = 20;

/** With the unit that leaves a number a person can read. */
export function time(ms: number): string {
  if (ms >= 1000) return `${(ms / 1000).toFixed(2)} s`;
  if (ms >= 1) return `${ms.toFixed(2)} ms`;
  return `${(ms * 1000).toFixed(ms < 0.001 && ms > 0 ? 2 : 1)} µs`;
}

/** One character a part; the busiest is full, and one with any exit at all is not empty. */
function bars(row: readonly number[]): string {
  const most = Math.max(...row, 1);
  return row
    .map((count) => BARS[count === 0 ? 0 : Math.max(1, Math.round((count / most) * (BARS.length - 1)))])
    .join('');
}
