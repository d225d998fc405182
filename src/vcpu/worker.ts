// The vCPU thread: creates its vCPU, parks until told to run, and runs the loop of vcpu.ts until it is told to stop.
// KVM API 4.7: a vCPU's ioctls should come from the thread that created it, so everything about it happens here.
import { parentPort, receiveMessageOnPort, workerData } from 'node:worker_threads';
import { GuestMemory } from '../memory/guest-memory.js';
import { KVM_MP_STATE_HALTED, KVM_MP_STATE_INIT_RECEIVED, KVM_MP_STATE_UNINITIALIZED } from '../kvm/abi.js';
import { threadId } from '../kvm/host-memory.js';
import { VmFd } from '../kvm/vm-fd.js';
import type { VcpuFd } from '../kvm/vcpu-fd.js';
import { CONTROL, COMMAND, COMMAND_MASK, LIVENESS, type Liveness } from './control.js';
import { VCPU_CALLS, type VcpuCallName } from './calls.js';
import type { DebugEvent, Debugger } from './debugger.js';
import { captureState } from './dump.js';
import { assembleVcpu } from './assemble.js';
import type { VcpuStop } from './stop.js';
import type { BoardModule, FromWorker, ToWorker, VcpuWorkerData } from './worker-protocol.js';
import type { Vcpu } from './vcpu.js';

const RFLAGS_IF = 1n << 9n;
/** A vCPU that waits for its owner sees a stop within this time. */
const STOP_LATENCY_MS = 2;

const port = parentPort;
if (port === null) throw new Error('worker.js is the entry of a vCPU thread; it does nothing on the main thread');
const tell = (message: FromWorker): void => port.postMessage(message);

const data = workerData as VcpuWorkerData;
const control = new Int32Array(data.control);
const { buildVcpuBuses } = (await import(data.boardModule)) as BoardModule;
const buses = await buildVcpuBuses(data.board, { until }, data.index);

using vm = VmFd.adopt(data.vmFd);
using fd = vm.createVcpu(data.index);
const memory = GuestMemory.attach(data.memory);
const { vcpu, assist, debug } = assembleVcpu(fd, memory, buses, data);
tell({ type: 'ready', token: fd.becomeRunner(), threadId: threadId() });

const stop = serve(vcpu, control);
const failed = stop.kind !== 'kicked' && stop.kind !== 'pending';
const capture = failed || commandOf(control) === COMMAND.STOP_AND_CAPTURE;
if (!failed) vcpu.completePending();
tell({
  type: 'stopped',
  stop,
  ...(capture ? { state: captureState(fd, memory) } : {}),
  ...(assist?.failure === undefined ? {} : { unassisted: assist.failure }),
});
// A user's module may have left a timer or a socket behind, which would hold the thread.
setImmediate(() => process.exit());

/** OwnerWait. A pause waits with it, since a vCPU parks between two instructions only; a stop does not. */
function until(words: Int32Array<SharedArrayBuffer>, index: number, expected: number): boolean {
  while (Atomics.load(words, index) === expected) {
    const command = commandOf(control);
    if (command === COMMAND.STOP || command === COMMAND.STOP_AND_CAPTURE) return false;
    // One cannot wait for two words: the command is looked at between short waits.
    Atomics.wait(words, index, expected, STOP_LATENCY_MS);
  }
  return true;
}

/** Obeys the command word until a stop: parks, runs, answers probes, waits for the debugger. */
function serve(vcpu: Vcpu, control: Int32Array): VcpuStop {
  let failure: VcpuStop | undefined;
  for (;;) {
    const command = commandOf(control);
    if (command === COMMAND.STOP || command === COMMAND.STOP_AND_CAPTURE) return { kind: 'kicked' };
    if (Atomics.exchange(control, CONTROL.PROBE, 0) === 1) {
      Atomics.store(control, CONTROL.LIVENESS, livenessOf(vcpu.fd));
      Atomics.add(control, CONTROL.PROBES, 1);
    }
    if (command === COMMAND.PARK) park(vcpu, control);
    // The debugger has seen it, and lets the guest go on, which it cannot.
    else if (failure !== undefined) return failure;
    else {
      const stop = vcpu.run();
      const event = debug.claim(stop);
      if (event === 'go-on') continue;
      if (event !== undefined) {
        if (event.kind === 'failed') failure = event.stop;
        hold(event, control);
        continue;
      }
      if (stop.kind === 'pending') awaitStop(control);
      if (stop.kind !== 'kicked') return stop;
    }
  }
}

/** The owner hears of the device's request by itself; its answer says whether it wants the registers. */
function awaitStop(control: Int32Array): void {
  for (;;) {
    const doorbell = Atomics.load(control, CONTROL.DOORBELL);
    const command = commandOf(control);
    if (command === COMMAND.STOP || command === COMMAND.STOP_AND_CAPTURE) return;
    Atomics.wait(control, CONTROL.DOORBELL, doorbell);
  }
}

/** Waits, and answers calls about the registers, until the command is no longer PARK. */
function park(vcpu: Vcpu, control: Int32Array): void {
  vcpu.completePending();
  let told: number | undefined;
  for (;;) {
    // Loaded before the messages and the command are looked at: what comes after it ends the wait at once.
    const doorbell = Atomics.load(control, CONTROL.DOORBELL);
    for (let next = receive(); next !== undefined; next = receive()) answer(next);
    const command = Atomics.load(control, CONTROL.COMMAND);
    if ((command & COMMAND_MASK) !== COMMAND.PARK) return;
    if (command !== told) tell({ type: 'parked', command });
    told = command;
    Atomics.wait(control, CONTROL.DOORBELL, doorbell);
  }
}

/** Tells the debugger, and waits as if parked until another command comes. */
function hold(event: DebugEvent, control: Int32Array): void {
  const held = Atomics.load(control, CONTROL.COMMAND);
  tell({ type: 'debug-stop', event, command: held });
  for (;;) {
    const doorbell = Atomics.load(control, CONTROL.DOORBELL);
    for (let next = receive(); next !== undefined; next = receive()) answer(next);
    if (Atomics.load(control, CONTROL.COMMAND) !== held) return;
    Atomics.wait(control, CONTROL.DOORBELL, doorbell);
  }
}

function commandOf(control: Int32Array): number {
  return Atomics.load(control, CONTROL.COMMAND) & COMMAND_MASK;
}

function receive(): ToWorker | undefined {
  return receiveMessageOnPort(port as NonNullable<typeof port>)?.message;
}

function answer({ id, call, argument }: ToWorker): void {
  try {
    const serveCall = VCPU_CALLS[call as VcpuCallName] as (
      fd: VcpuFd,
      memory: GuestMemory,
      argument: unknown,
      debug: Debugger,
    ) => unknown;
    tell({ type: 'answer', id, value: serveCall(fd, memory, argument, debug) });
  } catch (error) {
    tell({ type: 'answer', id, error: error instanceof Error ? error.message : String(error) });
  }
}

function livenessOf(fd: VcpuFd): Liveness {
  const state = fd.getMpState();
  if (state === KVM_MP_STATE_UNINITIALIZED || state === KVM_MP_STATE_INIT_RECEIVED) return LIVENESS.WAITS_FOR_SIPI;
  if (state === KVM_MP_STATE_HALTED && (fd.getRegs().rflags & RFLAGS_IF) === 0n) return LIVENESS.HALTED;
  return LIVENESS.ALIVE;
}
