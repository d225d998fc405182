// `microvisor trace FILE`: what a recorded trace says, on the terminal, as JSON, or for Perfetto and chrome://tracing.
// Our own; the files are those of microvisor run --trace.
import type { DefineVerb } from './verb.js';
import { refuseFile, UsageError } from './usage-error.js';

const AFTER_HELP = `
Examples:
  microvisor run --trace boot.trace -- true
  microvisor trace boot.trace
  microvisor trace boot.trace --explore             a timeline to look around in; /dev/kvm is not needed
  microvisor trace boot.trace --chrome boot.json    open it at https://ui.perfetto.dev or in chrome://tracing
`;
const DEFAULT_COLUMNS = 80;

interface Options {
  readonly chrome?: string;
  readonly json?: true;
  /** True without a port. */
  readonly explore?: string | true;
}

export const define: DefineVerb = (command, { end }) => {
  command
    .argument('<FILE>', 'a trace that microvisor run --trace FILE has written')
    .option('--chrome <FILE>', 'write it in the Trace Event Format instead')
    .option('--json', 'print the summary as JSON')
    .option('--explore [PORT]', 'show it on a page of this machine, and print its address; Ctrl-C ends it')
    .addHelpText('after', AFTER_HELP)
    .action(async (file: string, options: Options) => {
      const { TraceFile, TraceFileError } = await import('../machine/trace/trace-format.js');
      let trace;
      try {
        trace = TraceFile.open(file);
      } catch (error) {
        if (error instanceof TraceFileError) throw new UsageError('FILE', error.message);
        throw refuseFile('FILE', file, error, 'read');
      }
      using opened = trace;
      const records = () => opened.records();
      if (options.explore !== undefined) {
        const { showRecording } = await import('./trace-page.js');
        return end(await showRecording(opened, file, options));
      }
      if (options.chrome === undefined) {
        const { summarize } = await import('../machine/trace/trace-summary.js');
        const { formatSummary, TIMELINE_PARTS } = await import('./trace-text.js');
        const columns = process.stdout.isTTY ? process.stdout.columns : DEFAULT_COLUMNS;
        const summary = summarize(opened.header, records, TIMELINE_PARTS);
        process.stdout.write(
          options.json === true
            ? `${JSON.stringify({ ...opened.header, ...summary }, undefined, 2)}\n`
            : formatSummary(opened.header, summary, columns),
        );
      } else {
        const { chromeTrace } = await import('../machine/trace/chrome-trace.js');
        const { writePieces } = await import('./trace-output.js');
        writePieces(options.chrome, chromeTrace(opened.header, records));
      }
      end({ status: 0 });
    });
};
