// A device of registers: 32 bits at port 0x500, each read of which draws the next ticket; a write sets it.
import { defineDevice } from 'microvisor/device';

export const device = defineDevice({
  name: 'ticket',
  ports: { base: 0x500, length: 4 },
  fields: { NEXT: { doc: 'the ticket that the next read draws' } },
  registers: ({ NEXT }) => [
    { offset: 0, name: 'TICKET', size: 4, read: () => NEXT.add(1), write: (value) => NEXT.set(value) },
  ],
});
