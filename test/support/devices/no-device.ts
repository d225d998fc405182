// A module without a device, for the message about it.
// It exports something else.
export const counter = 1;
