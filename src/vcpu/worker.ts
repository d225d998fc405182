// The vCPU thread: creates its vCPU, parks until told to run, and runs the loop of vcpu.ts until it is told to stop.
// KVM API 4.7: a vCPU's ioctls should come from the thread that created it, so everything about it happens here.
import { type MessagePort, parentPort, receiveMessageOnPort, workerData } from 'node:worker_threads';
import { GuestMemory } from '../memory/guest-memory.js';
import { KVM_MP_STATE_HALTED, KVM_MP_STATE_INIT_RECEIVED, KVM_MP_STATE_UNINITIALIZED } from '../kvm/abi.js';
import { setTimeSlice, threadId } from '../kvm/host-thread.js';
import { VmFd } from '../kvm/vm-fd.js';
import type { VcpuFd } from '../kvm/vcpu-fd.js';
import { CONTROL, COMMAND, COMMAND_MASK, LIVENESS, type Liveness } from './control.js';
import { VCPU_CALLS, type CallTarget, type VcpuCallName } from './calls.js';
import type { DebugEvent, Debugger } from './debugger.js';
import { captureState } from './dump.js';
import { assembleVcpu } from './assemble.js';
import type { VcpuStop } from './stop.js';
import type { BuildVcpuBuses, FromWorker, OwnerWait, ToWorker, VcpuWorkerData } from './worker-protocol.js';
import type { Vcpu } from './vcpu.js';

const RFLAGS_IF = 1n << 9n;
/** A vCPU that waits for its owner sees a stop within this time. */
const STOP_LATENCY_MS = 2;

/**
 * Each turn of a guest begins with the timer interrupt that it missed: some 5,000 instructions, which an emulator takes a
 * millisecond or more for. With the kernel's slice of 3 ms a hundred guests on two processors did nothing else.
 */
const EMULATED_SLICE_MS = 50;

/** The owner's end of a vCPU thread: its command word, and its messages. */
interface Owner {
  /** CONTROL_WORDS words. */
  readonly control: Int32Array;
  readonly port: MessagePort;
}

/** What a parked vCPU answers about. */
interface Served {
  readonly vcpu: Vcpu;
  readonly memory: GuestMemory;
  readonly assist: CallTarget['assist'];
  readonly debug: Debugger;
}

/**
 * The life of a vCPU thread, from its data to its exit: what the entry module of such a thread calls, once.
 * @param buildVcpuBuses the devices, which the floor above knows
 */
export async function runVcpuThread(buildVcpuBuses: BuildVcpuBuses): Promise<void> {
  if (parentPort === null) throw new Error('a vCPU thread has an owner; this is the main thread');
  const data = (workerData as VcpuWorkerData | undefined) ?? (await dataFrom(parentPort));
  const owner: Owner = { control: new Int32Array(data.control), port: parentPort };
  const wait: OwnerWait = { until: (words, index, expected) => until(owner, words, index, expected) };
  const buses = await buildVcpuBuses(data.board, wait, data.index);

  using vm = VmFd.adopt(data.vmFd);
  using fd = vm.createVcpu(data.index);
  const memory = GuestMemory.attach(data.memory);
  const { vcpu, assist, debug } = assembleVcpu(fd, memory, buses, data);
  if (data.quirks.includes('kernel-emulated')) setTimeSlice(EMULATED_SLICE_MS);
  tell(owner, { type: 'ready', token: fd.becomeRunner(), threadId: threadId() });

  const stop = serve({ vcpu, memory, assist, debug }, owner);
  const failed = stop.kind !== 'kicked' && stop.kind !== 'pending';
  const capture = failed || commandOf(owner) === COMMAND.STOP_AND_CAPTURE;
  if (!failed) vcpu.completePending();
  tell(owner, {
    type: 'stopped',
    stop,
    ...(capture ? { state: captureState(fd, memory) } : {}),
    ...(assist?.failure === undefined ? {} : { unassisted: assist.failure }),
  });
  // A user's module may have left a timer or a socket behind, which would hold the thread.
  setImmediate(() => process.exit());
}

/** Of a thread in a pool: the first message is its data. Nothing follows it before the thread is ready. */
function dataFrom(port: MessagePort): Promise<VcpuWorkerData> {
  port.postMessage({ type: 'waiting' } satisfies FromWorker);
  return new Promise((resolve) => port.once('message', resolve));
}

/** OwnerWait. A pause waits with it, since a vCPU parks between two instructions only; a stop does not. */
function until(owner: Owner, words: Int32Array<SharedArrayBuffer>, index: number, expected: number): boolean {
  while (Atomics.load(words, index) === expected) {
    if (isStop(commandOf(owner))) return false;
    // One cannot wait for two words: the command is looked at between short waits.
    Atomics.wait(words, index, expected, STOP_LATENCY_MS);
  }
  return true;
}

/** Obeys the command word until a stop: parks, runs, answers probes, waits for the debugger. */
function serve(served: Served, owner: Owner): VcpuStop {
  const { vcpu, debug } = served;
  const { control } = owner;
  let failure: VcpuStop | undefined;
  for (;;) {
    const command = commandOf(owner);
    if (isStop(command)) return { kind: 'kicked' };
    if (Atomics.exchange(control, CONTROL.PROBE, 0) === 1) {
      Atomics.store(control, CONTROL.LIVENESS, livenessOf(vcpu.fd));
      Atomics.add(control, CONTROL.PROBES, 1);
    }
    // The debugger has seen it, and lets the guest go on, which it cannot.
    if (command !== COMMAND.PARK && failure !== undefined) return failure;
    const stop = (ACTIONS[command] ?? run)(served, owner);
    if (stop === undefined) continue;
    const event = debug.claim(stop);
    if (event === 'go-on') continue;
    if (event !== undefined) {
      if (event.kind === 'failed') failure = event.stop;
      hold(event, served, owner);
      continue;
    }
    if (stop.kind === 'pending') awaitStop(owner);
    if (stop.kind !== 'kicked') return stop;
  }
}

function run({ vcpu }: Served): VcpuStop {
  return vcpu.run();
}

/** Runs until one exit has been served, and waits then. @returns why the guest cannot go on, or did not get so far */
function runToExit(served: Served, owner: Owner): VcpuStop | undefined {
  const stop = served.vcpu.runToExit();
  if (stop === undefined) hold({ kind: 'stepped' }, served, owner);
  return stop;
}

/** By command; without a row: run. */
const ACTIONS: Readonly<Record<number, (served: Served, owner: Owner) => VcpuStop | undefined>> = {
  [COMMAND.PARK]: park,
  [COMMAND.RUN_TO_EXIT]: runToExit,
};

/** The owner hears of the device's request by itself; its answer says whether it wants the registers. */
function awaitStop(owner: Owner): void {
  const { control } = owner;
  for (;;) {
    const doorbell = Atomics.load(control, CONTROL.DOORBELL);
    if (isStop(commandOf(owner))) return;
    Atomics.wait(control, CONTROL.DOORBELL, doorbell);
  }
}

/**
 * Waits, and answers calls about the registers, until the command is no longer PARK.
 * @returns why the guest cannot go on, when completing its last access shows that
 */
function park(served: Served, owner: Owner): VcpuStop | undefined {
  const { control } = owner;
  const stop = served.vcpu.completePending();
  if (stop !== undefined) return stop;
  let told: number | undefined;
  for (;;) {
    // Loaded before the messages and the command are looked at: what comes after it ends the wait at once.
    const doorbell = Atomics.load(control, CONTROL.DOORBELL);
    for (let next = receive(owner); next !== undefined; next = receive(owner)) tell(owner, answer(served, next));
    const command = Atomics.load(control, CONTROL.COMMAND);
    if ((command & COMMAND_MASK) !== COMMAND.PARK) return undefined;
    if (command !== told) tell(owner, { type: 'parked', command });
    told = command;
    Atomics.wait(control, CONTROL.DOORBELL, doorbell);
  }
}

/** Tells the debugger, and waits as if parked until another command comes, or a stop was there already. */
function hold(event: DebugEvent, served: Served, owner: Owner): void {
  const { control } = owner;
  const held = Atomics.load(control, CONTROL.COMMAND);
  tell(owner, { type: 'debug-stop', event, command: held });
  for (;;) {
    const doorbell = Atomics.load(control, CONTROL.DOORBELL);
    for (let next = receive(owner); next !== undefined; next = receive(owner)) tell(owner, answer(served, next));
    if (Atomics.load(control, CONTROL.COMMAND) !== held || isStop(commandOf(owner))) return;
    Atomics.wait(control, CONTROL.DOORBELL, doorbell);
  }
}

function commandOf({ control }: Owner): number {
  return Atomics.load(control, CONTROL.COMMAND) & COMMAND_MASK;
}

function isStop(command: number): boolean {
  return command === COMMAND.STOP || command === COMMAND.STOP_AND_CAPTURE;
}

function receive({ port }: Owner): ToWorker | undefined {
  return receiveMessageOnPort(port)?.message;
}

function tell({ port }: Owner, message: FromWorker): void {
  port.postMessage(message);
}

function answer({ vcpu, memory, assist, debug }: Served, { id, call, argument }: ToWorker): FromWorker {
  try {
    const serveCall = VCPU_CALLS[call as VcpuCallName] as (target: CallTarget, argument: unknown) => unknown;
    return { type: 'answer', id, value: serveCall({ fd: vcpu.fd, memory, assist, debug }, argument) };
  } catch (error) {
    return { type: 'answer', id, error: error instanceof Error ? error.message : String(error) };
  }
}

function livenessOf(fd: VcpuFd): Liveness {
  const state = fd.getMpState();
  if (state === KVM_MP_STATE_UNINITIALIZED || state === KVM_MP_STATE_INIT_RECEIVED) return LIVENESS.WAITS_FOR_SIPI;
  if (state === KVM_MP_STATE_HALTED && (fd.getRegs().rflags & RFLAGS_IF) === 0n) return LIVENESS.HALTED;
  return LIVENESS.ALIVE;
}
