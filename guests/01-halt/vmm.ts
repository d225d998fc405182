// Lesson 1: the smallest VMM. A VM, a page of memory, a vCPU, one KVM_RUN, and the reason why it came back.
// KVM API 4.2 (KVM_CREATE_VM), 4.35 (memory slots), 4.7 (vCPUs), 4.10 (KVM_RUN), 5 (struct kvm_run).
import { abi, EXIT_NAMES, GuestMemory, KVM_RUN_OFFSET, System } from 'microvisor';
import { buildLesson } from '../ladder/build.js';

/** Where the guest lies in its own, "guest-physical" memory, and where it starts. */
const ENTRY = 0x1000;
const RAM_BYTES = 64 << 10;
const EINTR = 4;

export interface HaltResult {
  readonly exitReason: number;
  readonly ax: number;
  readonly rip: number;
}

export function runHalt({ output }: { readonly output: (text: string) => void }): HaltResult {
  // /dev/kvm is the door; a VM is a file descriptor that came out of it.
  using system = System.open();
  using vm = system.createVm();
  // Older Intel processors run real mode as a task with page tables of KVM's own: these lend it four pages
  // that no guest RAM uses. All others ignore them, so every VMM sets them.
  vm.setIdentityMapAddr(0xfffb_c000);
  vm.setTssAddr(0xfffb_d000);

  // Guest RAM is memory of this process. A slot makes it appear at a guest-physical address.
  const memory = GuestMemory.create(RAM_BYTES);
  memory.write(ENTRY, buildLesson('01-halt', ENTRY));
  vm.setUserMemoryRegion({ slot: 0, guestPhysAddr: 0, memory: memory.window(0, RAM_BYTES) });

  // After reset a processor fetches from 0xfffffff0, where a firmware would be. We have none: move it to our code.
  using vcpu = vm.createVcpu(0);
  vcpu.setSregs({ cs: { selector: 0, base: 0n } });
  vcpu.setRegs({ rip: BigInt(ENTRY), rflags: 2n });

  // The guest runs on this very thread, until something happens that KVM leaves to us. A signal for our process
  // also ends the call, with EINTR: nothing happened in the guest then, so we enter it again.
  do vcpu.enter();
  while (vcpu.lastErrno[0] === EINTR);

  // What happened stands in struct kvm_run, a page that kernel and VMM share.
  const exitReason = vcpu.run.view.getUint32(KVM_RUN_OFFSET.exit_reason, true);
  const { rax, rip } = vcpu.getRegs();
  output(`The guest came back: exit reason ${exitReason}, ${EXIT_NAMES[exitReason] ?? 'unknown'}.\n`);
  output(`AX is ${Number(rax)}; the next instruction would be at 0x${rip.toString(16)}.\n`);
  if (exitReason !== abi.KVM_EXIT_HLT)
    throw new Error('this guest can only halt: is guest.S still the one of lesson 1?');
  return { exitReason, ax: Number(rax & 0xffffn), rip: Number(rip) };
}
