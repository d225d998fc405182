// The entry of a vCPU thread: the run loop's life over this machine's board.
import { runVcpuThread } from '../vcpu/worker.js';
import { buildVcpuBuses } from './board.js';

void runVcpuThread(buildVcpuBuses);
