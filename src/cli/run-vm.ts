// One `microvisor run`: prepares, starts, connects, waits, reports. The heavy half of the verb, loaded when it runs.
// Our own; statuses as in the README: 0, COMMAND's, debug-exit, 2, 124, 125, 128+n.
import { basename } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ImageFormat } from '../boot/request.js';
import type { Diagnosis } from '../machine/doctor/diagnosis.js';
import { ConfigError, type VmConfig } from '../machine/config.js';
import { createVm } from '../machine/create-vm.js';
import type { Vm } from '../machine/vm.js';
import { exitStatus, type Outcome } from '../machine/outcome.js';
import { openConsoleFile } from './console-file.js';
import { OPTION_OF_FIELD, vmConfig } from './config-from-request.js';
import { sayDiagnosis, sayFailure, sayStall } from './failure.js';
import { hasHardwareVirtualization, prepareDefaultGuest } from './default-guest.js';
import {
  connectCommandInput,
  connectConsoleInput,
  connectOutput,
  isBrokenPipe,
  type Connection,
  type StreamEvents,
} from './guest-streams.js';
import { openReportFile, type ReportFile } from './report-file.js';
import { needsBoot, type RunHooks, type RunRequest } from './run-options.js';
import { DEFAULT_FOLDER, Saver, watchForLine } from './saver.js';
import { describeError, printable, say } from './sentence.js';
import { dieOf, signalStatus, watchSignals, type EndingSignal } from './signals.js';
import type { Explorer } from '../web/explore.js';
import { openOutput } from './trace-output.js';
import { terminalSize, watchTerminalSize } from './terminal.js';
import { UsageError } from './usage-error.js';

/** How long a run that was told to end may take to do so. */
const END_DEADLINE_MS = 1500;
/** How long output may take to be written after such an end. */
const FLUSH_DEADLINE_MS = 300;
/** How long a guest may be looked at that is to be stopped. */
const DIAGNOSIS_DEADLINE_MS = 1000;
/** Statuses beside those of an outcome. */
const VM_FAILED = 125;
const SIGPIPE_STATUS = signalStatus('SIGPIPE');

/** Images for which kernel options mean something. */
const LINUX_FORMATS: ReadonlySet<string> = new Set<ImageFormat>(['elf-linux', 'elf-pvh', 'bzimage']);

/** How a run ended: with a status, or by a signal that the process is to die of. */
export type RunEnd = { readonly status: number } | { readonly signal: EndingSignal; readonly status: number };

export function runVm(request: RunRequest): Promise<RunEnd> {
  return runMachine(request, async (hooks) => {
    const guest = request.kernel === undefined ? await prepareDefaultGuest(request, hooks.signal) : undefined;
    const size = process.stdin.isTTY && request.command === undefined ? terminalSize() : undefined;
    const config = vmConfig(request, { guest, terminalSize: size });
    const vm = await inWords(() => (isWarm(request) ? startWarm(config, hooks) : createVm({ ...config, ...hooks })));
    suggestQuirkOptions(vm, request);
    sayGdb(vm, request.wait, request.kernel ?? guest?.kernel ?? '');
    return vm;
  });
}

/** A snapshot is for hosts on which a boot takes long; a report is of a boot, too, unless it is said otherwise. */
function isWarm(request: RunRequest): boolean {
  return request.warm ?? !(needsBoot(request) || request.report !== undefined || hasHardwareVirtualization());
}

/** Loaded only where it is wanted: all of a restore comes with it. */
async function startWarm(config: VmConfig, hooks: RunHooks): Promise<Vm> {
  const { warmStart } = await import('./warm-start.js');
  return warmStart(config, hooks);
}

/** Runs the VM that `make` gives, one that is to start or one that was restored, as `request` says. */
export async function runMachine(request: RunRequest, make: (hooks: RunHooks) => Promise<Vm>): Promise<RunEnd> {
  const report = request.report === undefined ? undefined : openReportFile(request.report);
  const traceFd = request.trace === undefined ? undefined : openOutput('--trace', request.trace);
  const consoleFile = request.console?.kind === 'file' ? openConsoleFile(request.console.path) : undefined;
  const abort = new AbortController();
  const connections: Connection[] = [];
  let signal: EndingSignal | undefined;
  let crashed = false;
  let vm: Vm | undefined;
  let explorer: Explorer | undefined;
  let stalled: Diagnosis | undefined;
  // No thread that hangs may keep the process: a signal ends all of them.
  const endWithin = (deadline: number, last: NodeJS.Signals): void => {
    abort.abort();
    setTimeout(() => {
      release(connections);
      dieOf(last);
    }, deadline).unref();
  };
  const unwatch = watchSignals(
    (name) => {
      signal = name;
      endWithin(END_DEADLINE_MS, name);
    },
    () => release(connections),
  );
  const onCrash = (error: unknown): void => {
    if (!crashed) say(`internal error: ${describeError(error)}`);
    crashed = true;
    endWithin(END_DEADLINE_MS, 'SIGKILL');
  };
  process.on('uncaughtException', onCrash);
  try {
    vm = await make({
      signal: abort.signal,
      onWarning: (message) => say(printable(message)),
      onStall: (diagnosis) => {
        stalled = diagnosis;
        void sayStall(diagnosis);
      },
    });
    if (request.explore !== undefined) explorer = await openPage(vm, request);
    const recording = traceFd === undefined ? undefined : await startRecording(vm, traceFd, request);
    const status = await runToEnd(vm, request, consoleFile, connections);
    recording?.();
    await explorer?.close();
    if (signal !== undefined) return writeReport(report, vm, stalled, { signal, status: signalStatus(signal) });
    return writeReport(report, vm, stalled, { status: crashed ? VM_FAILED : status });
  } catch (error) {
    // What was going on was given up because of the signal.
    if (signal !== undefined) return { signal, status: signalStatus(signal) };
    if (vm === undefined || error instanceof UsageError) throw error;
    onCrash(error);
    return { status: VM_FAILED };
  } finally {
    release(connections);
    unwatch();
    process.off('uncaughtException', onCrash);
  }
}

function release(connections: Connection[]): void {
  for (const connection of connections.splice(0)) connection.release();
}

// The configuration's fields are named as the person typed them.
export async function inWords(make: () => Promise<Vm>): Promise<Vm> {
  try {
    return await make();
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    const [field = ''] = error.field.split('.');
    throw new UsageError(OPTION_OF_FIELD[field] ?? field, error.message.slice(`${error.field}: `.length));
  }
}

/** @returns the status that the outcome stands for */
async function runToEnd(
  vm: Vm,
  request: RunRequest,
  consoleFile: number | undefined,
  connections: Connection[],
): Promise<number> {
  let broken: NodeJS.ErrnoException | undefined;
  const stop = (by: 'host' | 'timeout'): void => {
    void vm.stop({ by });
  };
  const saver = new Saver(vm, request.snapshot);
  const events: StreamEvents = {
    onEndKey: () => stop('host'),
    onSaveKey: () => void saver.save(),
    onBrokenOutput: (error) => {
      broken ??= error;
      stop('host');
    },
  };
  connections.push(...connect(vm, request, consoleFile, events));
  const timer =
    request.timeoutMs === undefined
      ? undefined
      : setTimeout(() => void diagnoseInTime(vm, request).finally(() => stop('timeout')), request.timeoutMs);
  if (request.snapshotAt !== undefined) watchForLine(vm.console.output, request.snapshotAt, () => void saver.save());
  if (vm.state === 'paused') await vm.resume();
  else await vm.start();
  if (request.verbose === true)
    say(`the VM was started with the command line: ${printable(vm.report().kernel.cmdline)}`);
  const outcome = await vm.outcome;
  await drain(connections, outcome);
  clearTimeout(timer);
  release(connections);
  if (outcome.kind === 'failed') await sayFailure(outcome, request);
  if (outcome.kind === 'command' && outcome.message !== undefined) say(printable(outcome.message));
  if (broken === undefined) return exitStatus(outcome);
  if (isBrokenPipe(broken)) return SIGPIPE_STATUS;
  say(`the guest's output cannot be written (${broken.code ?? broken.message}); the VM was stopped`);
  return VM_FAILED;
}

/** @throws UsageError for a port that cannot be had; the VM has been stopped then */
async function openPage(vm: Vm, request: RunRequest): Promise<Explorer> {
  const { openExplorer } = await import('../web/explore.js');
  const { explore = 0, snapshot = DEFAULT_FOLDER, kernel } = request;
  const name = kernel === undefined ? 'the default guest' : basename(kernel);
  const options = { port: explore, snapshotFolder: snapshot, name };
  const explorer = await openExplorer(vm, options).catch(async (error: Error) => {
    await vm.stop();
    throw new UsageError('--explore', error.message);
  });
  say(`the explorer is at ${explorer.url}`);
  return explorer;
}

/** @returns what ends it and says what was recorded */
async function startRecording(vm: Vm, fd: number, request: RunRequest): Promise<() => void> {
  const { recordTrace } = await import('../machine/trace/trace-recorder.js');
  const recorder = recordTrace(
    fd,
    vm.vcpus.flatMap(({ trace }) => trace ?? []),
    {
      kernel: request.kernel ?? 'the default guest',
      cmdline: vm.report().kernel.cmdline,
      cpus: vm.vcpus.length,
      devices: vm.deviceMap(),
    },
  );
  return () => {
    try {
      const { exits, lost } = recorder.finish();
      const gone = lost > 0 ? `; ${lost} more came too fast and were lost` : '';
      if (request.verbose === true || lost > 0) say(`${exits} exits were recorded in ${request.trace ?? ''}${gone}`);
    } catch (error) {
      say(`the trace is not whole: ${describeError(error)}`);
    }
  };
}

/** What the guest was at when its time was over. It has had its time: the look at it is short. */
async function diagnoseInTime(vm: Vm, { verbose }: RunRequest): Promise<void> {
  const diagnosis = await Promise.race([vm.diagnose(), sleep(DIAGNOSIS_DEADLINE_MS)]).catch(() => undefined);
  if (diagnosis !== undefined && verbose === true) await sayDiagnosis(diagnosis);
}

function sayGdb({ gdbAddress }: Vm, wait: boolean | undefined, kernel: string): void {
  if (gdbAddress === undefined) return;
  say(`${wait === true ? 'waiting for gdb' : 'gdb can connect'}: gdb ${kernel} -ex 'target remote ${gdbAddress}'`);
}

function connect(
  vm: Vm,
  request: RunRequest,
  consoleFile: number | undefined,
  events: StreamEvents,
): readonly Connection[] {
  const { console } = vm;
  // A shell has the console.
  const exec = request.command !== undefined || vm.task === 'command' ? vm.exec : undefined;
  const connections: Connection[] = [];
  if (consoleFile !== undefined) connections.push(connectOutput(console.output, consoleFile, events, { owned: true }));
  if (exec !== undefined) {
    connections.push(
      connectCommandInput(exec.stdin),
      connectOutput(exec.stdout, 1, events),
      connectOutput(exec.stderr, 2, events),
    );
    // Nobody's command ends because nobody reads the boot messages.
    if (consoleFile === undefined && request.verbose === true)
      connections.push(connectOutput(console.output, 2, { onBrokenOutput: () => undefined }));
    else if (consoleFile === undefined) console.output.resume();
  } else if (request.console?.kind === 'null') console.output.resume();
  else if (consoleFile === undefined) {
    const output = connectOutput(console.output, 1, events);
    if (process.stdin.isTTY) say('Ctrl-A x ends the VM, Ctrl-A h lists the keys');
    // What a restored guest has printed before, and the person is to answer.
    output.sink.write(Buffer.from(vm.prompt, 'latin1'));
    connections.push(output, connectConsoleInput(console.input, output.sink, events));
    if (vm.canResize) connections.push(connectSize(vm));
  }
  return connections;
}

/** A serial line cannot tell its size to the guest, a virtio console can. */
function connectSize(vm: Vm): Connection {
  const release = watchTerminalSize((columns, rows) => vm.resizeConsole(columns, rows));
  return { drained: Promise.resolve(), release };
}

// A VM that ended by itself has its output written to the last byte, however slow the reader is; one that was told to
// end has it written as far as the reader takes it at once.
async function drain(connections: readonly Connection[], outcome: Outcome): Promise<void> {
  const all = Promise.all(connections.map(({ drained }) => drained));
  if (outcome.kind !== 'stopped') await all;
  else await Promise.race([all, sleep(FLUSH_DEADLINE_MS)]);
}

// A user's own kernel gets a hint, never options.
function suggestQuirkOptions(vm: Vm, request: RunRequest): void {
  if (request.kernel === undefined || vm.quirkOptions === '' || !LINUX_FORMATS.has(vm.report().kernel.format)) return;
  const given = new Set(`${request.cmdline ?? ''} ${request.append ?? ''}`.split(' '));
  const missing = vm.quirkOptions.split(' ').filter((option) => !given.has(option));
  if (missing.length === 0) return;
  say(`a Linux kernel may need these options on this host (see microvisor check): --append '${missing.join(' ')}'`);
}

function writeReport(report: ReportFile | undefined, vm: Vm, stalled: Diagnosis | undefined, end: RunEnd): RunEnd {
  try {
    report?.write({ ...end, ...vm.report(), ...(stalled === undefined ? {} : { stalled }) });
    return end;
  } catch (error) {
    say(`the report was not written: ${describeError(error)}`);
    return end.status === 0 ? { ...end, status: VM_FAILED } : end;
  }
}
