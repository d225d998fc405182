// Grades exercise 8: a PIC, by the state that the kernel keeps of it.
// KVM API 4.26 (KVM_GET_IRQCHIP); 8259A data sheet.
import { abi } from 'microvisor';
import type { Exam } from '../ladder/lesson.js';
import { describeEnd, ENTRY, hex } from '../ladder/rig.js';
import { PIC_STATE } from './vmm.js';

const IRQ0 = 1 << 0;
const EXCEPTIONS = 0x20;

export function gradeTimers(exam: Exam): void {
  let chip: Uint8Array = new Uint8Array(0);
  const run = exam.run({
    guest: exam.guest(ENTRY),
    ram: 2 << 20,
    irqchip: true,
    inspect: (vm) => void (chip = vm.getIrqchip(abi.KVM_IRQCHIP_PIC_MASTER)),
  });
  const state = (name: keyof typeof PIC_STATE): number => chip[PIC_STATE[name]] ?? 0;
  const base = state('irq_base');
  exam.check('IRQ 0 is vector 0x20', base === 0x20, () => ({
    observed:
      `PIC1 gives IRQ 0 as vector ${hex(base)}` +
      `${base < EXCEPTIONS ? ", which is one of the processor's own exceptions" : ''}; so ${describeEnd(run)}.`,
    missing: 'ICW1 to ICW4 for PIC1, with ICW2 = 0x20: outb PIC1, 0x11, then three words to PIC1 + 1.',
  }));
  exam.check('IRQ 0 is let through', (state('imr') & IRQ0) === 0, () => ({
    observed: `PIC1's mask is ${hex(state('imr'))}: bit 0 holds back IRQ 0.`,
    missing: 'OCW1, the mask: 0xfe to PIC1 + 1, after ICW4.',
  }));
  exam.check('three ticks come, and the program ends', run.stop.kind === 'pending', () => ({
    observed: `${describeEnd(run)}; PIC1's in-service register is ${hex(state('isr'))}.`,
    missing:
      (state('isr') & IRQ0) === 0
        ? 'interrupts: is the IDT loaded, and is STI where it was?'
        : 'the end of the interrupt, OCW2: outb PIC1, 0x20 in the handler. IRQ 0 is still in service, and waits for it.',
  }));
}
