// A running machine: start, pause, resume, stop, its streams, its outcome and its report.
// Composition is create-vm.ts; this file is the machine's life from `created` to `ended`.
import type { Readable, Writable } from 'node:stream';
import type { ClosureBack } from '../devices/closure-back.js';
import type { FieldRows } from '../devices/register-file.js';
import type { GuestMemory } from '../memory/guest-memory.js';
import type { DebugFacilities } from '../vcpu/gdb/points.js';
import { allConsoles, panicLine, startTask, type ConsoleSize, type Consoles, type ConsoleStreams } from './consoles.js';
import type { Diagnosis } from './doctor/diagnosis.js';
import type { DoctorSources } from './doctor/examine.js';
import { deviceHandle, deviceMap, type DeviceHandle } from './device-handle.js';
import type { CommandEnd, ExecTask } from './exec-channel.js';
import { judge, type Cause } from './judge.js';
import type { ExecRequest, ForkOptions, ShellRequest } from './config.js';
import type { GdbServer } from './gdb-server.js';
import { inspectMachine, type InspectedMachine } from './inspected-machine.js';
import type { Machine } from './machine.js';
import { releaseMachine } from './release.js';
import type { Marks } from './marks.js';
import { exitStatus, type Outcome } from './outcome.js';
import { reportMachine, type VmReport } from './report.js';
import { RunControl, type VmState } from './run-control.js';
import { releaseDevices } from './snapshot/hold.js';
import type { MappedRam } from './snapshot/mapped-ram.js';
import type { StallOptions } from './stall-watch.js';
import { serveClosures } from './serve-closures.js';
import { vcpuHandles, type VcpuHandle } from './vcpu-handle.js';
import type { VcpuEnd } from './vcpu-thread.js';
import type { TraceDevice } from './trace/trace-format.js';
import { diagnosed, diagnoseStanding, watchBoot } from './vm-doctor.js';

/** After its command's end a guest with disks has so long to unmount them and to switch itself off. */
const POWER_OFF_GRACE_MS = 2000;

/** Everything a machine consists of. */
export interface VmParts extends Machine {
  readonly kernel: VmReport['kernel'];
  /** Kernel options that Linux wants on this host; empty on a host without quirks. */
  readonly quirkOptions: string;
  readonly consoles: Consoles;
  /** The virtio console, when there is one. */
  readonly resize: ConsoleSize | undefined;
  readonly marks: Marks;
  readonly sources: DoctorSources;
  /** Undefined when nobody wants to know. */
  readonly stall: StallOptions | undefined;
  /** The door for a debugger; `holds`: the machine does not start before one lets it. */
  readonly gdb:
    { readonly server: GdbServer; readonly holds: boolean; readonly facilities: DebugFacilities } | undefined;
  readonly signal: AbortSignal | undefined;
  /** Makes forks of the machine while it is held: see fork.ts. */
  readonly fork: (machine: VmParts, count: number, options: ForkOptions) => Promise<Vm[]>;
  /** Of a machine that comes from a snapshot. */
  readonly restored?: { readonly mapped: MappedRam; readonly prompt: string };
}

export class Vm implements AsyncDisposable {
  /** Guest RAM, live: reads and writes are the guest's own bytes. Gone (zeroed) once the machine has ended. */
  readonly memory: GuestMemory;
  /** What the guest prints, and what it is to read: on COM1, or on the virtio console when the configuration says so. */
  readonly console: ConsoleStreams;
  /** COM1, where firmware and kernels print early. The same as `console` without a virtio console. */
  readonly serial: ConsoleStreams;
  /** The command's streams, when the configuration has an `exec`. */
  readonly exec: { readonly stdin: Writable; readonly stdout: Readable; readonly stderr: Readable } | undefined;
  /** Resolves when the guest's agent waits for its command; never without an `exec`. */
  readonly ready: Promise<void>;
  /** Never rejects: a machine that fails has an outcome that says so. */
  readonly outcome: Promise<Outcome>;
  readonly vcpus: readonly VcpuHandle[];
  /** Kernel options that Linux wants on this host; empty on a host without quirks. */
  readonly quirkOptions: string;
  /** In a restored machine: the end of the console's output before the snapshot, without a newline. */
  readonly prompt: string;
  readonly #parts: VmParts;
  readonly #run: RunControl;
  /** The devices stand still, as a restore or a snapshot has left them. */
  #isHeld = false;
  #outcome: Outcome | undefined;
  #resolve: (outcome: Outcome) => void = () => undefined;
  #command: CommandEnd | undefined;
  #stall: { close(): void } | undefined;
  /** A debugger has stopped the machine, or is waited for. */
  #isDebugged: boolean;
  #started: () => void = () => undefined;
  readonly #closures: ClosureBack | undefined;
  readonly #abort = (): void => void this.#finish({ kind: 'stopped', by: 'abort' }, false);

  constructor(parts: VmParts) {
    this.#parts = parts;
    this.#run = new RunControl(parts.threads, {
      beforeRun: () => this.#beforeRun(),
      onHalted: () => void this.#finish({ kind: 'halted' }, true),
    });
    this.#isDebugged = parts.gdb?.holds === true;
    this.memory = parts.memory;
    const { main, serial, exec } = parts.consoles;
    this.console = { output: main.output, input: main.input };
    this.serial = { output: serial.output, input: serial.input };
    this.exec = exec;
    this.ready = exec?.ready ?? new Promise(() => undefined);
    this.quirkOptions = parts.quirkOptions;
    this.outcome = new Promise((resolve) => (this.#resolve = resolve));
    this.vcpus = vcpuHandles(parts);
    parts.fds.event.onReadable(() => this.#onMachineEvent());
    for (const thread of parts.threads) void thread.ended.then((end) => this.#onVcpuEnd(end));
    const onDeviceFailure = (message: string): void => void this.#finish({ kind: 'device', message }, true);
    this.#closures = serveClosures(parts, onDeviceFailure);
    void parts.deviceFailure.then(onDeviceFailure);
    parts.restored?.mapped.onLost(onDeviceFailure);
    this.prompt = parts.restored?.prompt ?? '';
    if (parts.restored !== undefined) {
      this.#run.state = 'paused';
      this.#isHeld = true;
    }
    this.#followCommand();
    this.#admitDebugger();
    parts.signal?.addEventListener('abort', this.#abort, { once: true });
    if (parts.signal?.aborted === true) this.#abort();
  }

  /** Where gdb's `target remote` finds the machine, when the configuration says that it may. */
  get gdbAddress(): string | undefined {
    return this.#parts.gdb?.server.address;
  }

  get state(): VmState {
    return this.#run.state;
  }

  /** Lets the guest run from its entry point. @throws Error when it was started before */
  async start(): Promise<void> {
    if (this.state !== 'created') throw new Error(`start: the machine is ${this.state}; it can be started once`);
    this.#parts.marks.set('firstRun');
    if (this.#isDebugged) this.#run.state = 'paused';
    else this.#run.start();
    this.#started();
    this.#stall = watchBoot(this.#parts, () =>
      this.state === 'running' ? this.diagnose() : Promise.reject(new Error('the machine is not running')),
    );
  }

  /**
   * Parks every vCPU between two instructions. Resolves when all are parked. Where the machine stands for a moment, as
   * for a snapshot, it does not go on by itself then.
   * @throws Error when it is neither running nor paused
   */
  async pause(): Promise<void> {
    if (this.state !== 'running' && this.state !== 'paused')
      throw new Error(`pause: the machine is ${this.state}, not running`);
    await this.#run.hold();
  }

  /**
   * Goes on after `pause`, unless it is paused again before it does.
   * @throws Error when it is not paused, or is stopped by a debugger
   */
  async resume(): Promise<void> {
    if (this.#isDebugged) throw new Error('resume: a debugger has stopped the machine; let it continue there');
    if (this.state !== 'paused') throw new Error(`resume: the machine is ${this.state}, not paused`);
    await this.#run.release();
  }

  /**
   * Writes the machine's state and RAM into `directory`, in place of a snapshot that is there. A running machine is
   * paused for it and goes on afterwards; a paused one stays paused, and its devices stand still with it: until it goes
   * on, its disks are as the snapshot needs them. The event loop stands still while RAM is written.
   * @throws SnapshotError when it cannot be written; Error when the machine is neither running nor paused, or a device
   * keeps what the guest asked of it
   */
  async snapshot(directory: string): Promise<void> {
    const { saveMachine } = await import('./snapshot/save.js');
    await this.#run.standing('snapshot', () => this.#whileHeld(() => saveMachine(this.#parts, directory)));
  }

  /**
   * Makes `count` machines that go on where this one stands, paused as restoreVm makes them. They share its memory
   * copy-on-write, read-only disks, and the bases of overlays; each gets a copy of the overlays, and a user network of
   * its own. A running machine is paused for it and goes on afterwards.
   * @throws ConfigError for a disk or network that cannot be shared; as `snapshot` otherwise
   */
  async fork(count: number, options: ForkOptions = {}): Promise<Vm[]> {
    if (!Number.isSafeInteger(count) || count < 1)
      throw new RangeError(`fork: the number of forks is a whole number from 1 on, not ${count}`);
    return this.#run.standing('fork', () => this.#whileHeld(() => this.#parts.fork(this.#parts, count, options)));
  }

  /**
   * Runs a command, or a shell, in a guest that was booted with `exec: 'later'`, here or before the snapshot; once.
   * @throws Error when the guest has no agent, or its command already; RangeError for a command that it would not take
   */
  execute(task: ExecRequest | ShellRequest): void {
    startTask(this.#parts.consoles.exec, task);
  }

  /**
   * Ends the machine, whatever the guest does. A machine that has ended keeps its outcome.
   * @param options.by who says so; `capture` also takes the registers for the outcome's report
   */
  stop(options: { readonly by?: 'host' | 'timeout'; readonly capture?: boolean } = {}): Promise<Outcome> {
    void this.#finish({ kind: 'stopped', by: options.by ?? 'host' }, options.capture ?? false);
    return this.outcome;
  }

  /** Whether the guest can be told the size of a terminal: it has a virtio console. */
  get canResize(): boolean {
    return this.#parts.resize !== undefined;
  }

  /** What the guest's agent does; undefined without an `exec`. */
  get task(): ExecTask | undefined {
    return this.#parts.consoles.exec?.task;
  }

  /**
   * Tells the guest the size of the terminal behind its virtio console, in characters, each 1 to 65535.
   * @throws Error when the machine has no virtio console
   */
  resizeConsole(columns: number, rows: number): void {
    if (this.#parts.resize === undefined)
      throw new Error("the machine has no virtio console; create it with console: 'virtio'");
    if (this.state !== 'ended') this.#parts.resize.resize(columns, rows);
  }

  /**
   * What the boot doctor says about the machine as it is now. A running guest stands still for it, for some milliseconds.
   * @throws Error when the machine has ended and its outcome has no diagnosis
   */
  async diagnose(): Promise<Diagnosis> {
    if (this.state === 'ending' || this.state === 'ended') {
      const outcome = await this.outcome;
      if (outcome.kind === 'failed' && outcome.diagnosis !== undefined) return outcome.diagnosis;
      throw new Error(`diagnose: the machine has ended (${outcome.kind}); there is nothing to look at`);
    }
    return this.#run.standing('diagnose', async () => {
      const vcpus = await Promise.all(this.#parts.threads.map((thread) => thread.call('captureState')));
      return diagnoseStanding(this.#parts, vcpus);
    });
  }

  /** What has been measured so far; complete once the machine has ended. */
  report(): VmReport {
    return reportMachine(this.#parts, this.#outcome);
  }

  /** Where this machine's devices lie, in ascending order, ports before MMIO. */
  deviceMap(): readonly TraceDevice[] {
    return deviceMap(this.#parts.board);
  }

  /**
   * A device of this machine by its name in the report: the fields of its registers, live, and its interrupt.
   * `vm.device<typeof counter.fields>('counter')` knows the names of the fields.
   * @throws RangeError for a name that no device has
   */
  device<R extends FieldRows = FieldRows>(name: string): DeviceHandle<R> {
    const { board, user, fds } = this.#parts;
    const irqFd = (gsi: number) => (this.state === 'ended' ? undefined : fds.irq.get(gsi));
    return deviceHandle<R>(name, { registers: board.registers, user, irqFd });
  }

  /** For a debugger or an explorer in this process: the vCPUs' threads, and every register of every device, live. */
  inspect(): InspectedMachine {
    return inspectMachine(this.#parts, {
      hold: () => this.pause(),
      release: (indices, toExit = []) => this.#run.release({ indices, toExit }),
      standing: (what, action) => this.#run.standing(what, action),
      kill: () => void this.stop(),
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }

  // The devices stay held, also where the machine was paused before, until vCPUs run.
  #whileHeld<T>(action: () => Promise<T>): Promise<T> {
    this.#isHeld = true;
    return action();
  }

  #beforeRun(): void {
    this.#parts.marks.set('firstRun');
    if (this.#isHeld) releaseDevices(this.#parts);
    this.#isHeld = false;
  }

  #admitDebugger(): void {
    const { gdb, threads } = this.#parts;
    if (gdb === undefined) return;
    const started = new Promise<void>((resolve) => (this.#started = resolve));
    gdb.server.serve({
      ...this.inspect(),
      facilities: gdb.facilities,
      hold: async () => {
        this.#isDebugged = true;
        await this.#run.hold();
      },
      release: async (indices, toExit = []) => {
        const isAll = indices.length === threads.length;
        if (!isAll) await started;
        this.#isDebugged = false;
        if (this.state === 'paused') await this.#run.release({ indices, toExit });
      },
    });
  }

  #onMachineEvent(): void {
    const event = this.#parts.board.events.peek();
    if (event !== undefined) void this.#finish({ kind: 'event', event }, false);
  }

  #onVcpuEnd(end: VcpuEnd): void {
    if (this.state === 'ending' || this.state === 'ended') return;
    const lost = this.#parts.restored?.mapped.problem();
    if (end.type === 'stopped' && end.stop.kind === 'pending') this.#onMachineEvent();
    else if (lost !== undefined) void this.#finish({ kind: 'device', message: lost }, true);
    else void this.#finish({ kind: 'vcpu', end }, true);
  }

  #followCommand(): void {
    const { exec } = this.#parts.consoles;
    if (exec === undefined) return;
    void exec.ready.then(() => this.#parts.marks.set('commandReady'));
    exec.ended.then(
      (command) => {
        this.#command = command;
        const grace = this.#parts.config.disks.length === 0 ? 0 : POWER_OFF_GRACE_MS;
        setTimeout(() => void this.#finish({ kind: 'stopped', by: 'host' }, false), grace).unref();
      },
      (error: Error) => void this.#finish({ kind: 'device', message: error.message }, true),
    );
  }

  // The first cause wins. Everything that ends a machine comes through here, in one order: vCPUs, output, descriptors.
  async #finish(cause: Cause, capture: boolean): Promise<void> {
    if (this.state === 'ending' || this.state === 'ended') return;
    this.#run.end();
    const { threads, consoles, marks, signal } = this.#parts;
    const ports = [...allConsoles(consoles).map(({ port }) => port), consoles.com2];
    this.#stall?.close();
    this.#closures?.close();
    signal?.removeEventListener('abort', this.#abort);
    // A panic's line may still wait in the ring when the machine's reset is already here.
    for (const port of ports) port.drain();
    for (const thread of threads) thread.stop(capture || panicLine(consoles) !== undefined);
    const ends = await Promise.all(threads.map((thread) => thread.ended));
    await Promise.all(threads.map((thread) => thread.joined));
    // With the vCPUs gone nothing more can be printed: what is left now is all there is.
    for (const port of ports) port.resume();
    for (const port of ports) port.close();
    // The command's end may have come with the last bytes; its promise settles before the next line goes on.
    await Promise.resolve();
    const judged = judge({
      cause,
      ends,
      panic: panicLine(consoles),
      wantsCommand: consoles.exec !== undefined && consoles.exec.task !== 'shell',
      command: this.#command,
    });
    const outcome = await diagnosed(this.#parts, judged, ends);
    for (const { output, input } of allConsoles(consoles)) {
      output.end();
      input.destroy();
    }
    consoles.exec?.close();
    await Promise.all(this.#parts.backs.map((back) => back.close()));
    await this.#parts.gdb?.server.close(exitStatus(outcome));
    releaseMachine(this.#parts);
    marks.set('ended');
    this.#run.state = 'ended';
    this.#outcome = outcome;
    this.#resolve(outcome);
  }
}
