// What a disk offers its driver: features and configuration space.
// VIRTIO 1.2 §5.2.3 (feature bits), §5.2.4 (device configuration layout).
import { SECTOR_BYTES } from '../backend/block-backend.js';
import { DEVICE_ID } from './abi.js';
import { BLOCK_FEATURE, RANGE_SECTORS_MAX, RANGES_MAX } from './block-request.js';
import type { VirtioOffer } from './device.js';

export const BLOCK_QUEUE_SIZE = 256;
/** struct virtio_blk_config up to write_zeroes_may_unmap. */
const CONFIG_BYTES = 60;
/** 2^3 sectors: what the page cache and most drives write at once. */
const PHYSICAL_BLOCK_EXP = 3;

/** Offset, size and value of the fields that are not 0. */
function configRows(
  capacitySectors: number,
): readonly (readonly [offset: number, size: 1 | 2 | 4 | 8, value: number])[] {
  return [
    [0, 8, capacitySectors],
    // seg_max: header and status take a descriptor each.
    [12, 4, BLOCK_QUEUE_SIZE - 2],
    // blk_size
    [20, 4, SECTOR_BYTES],
    // topology: physical_block_exp, min_io_size in blocks
    [24, 1, PHYSICAL_BLOCK_EXP],
    [26, 2, 1 << PHYSICAL_BLOCK_EXP],
    // num_queues
    [34, 2, 1],
    // max_discard_sectors, max_discard_seg, discard_sector_alignment
    [36, 4, RANGE_SECTORS_MAX],
    [40, 4, RANGES_MAX],
    [44, 4, 1 << PHYSICAL_BLOCK_EXP],
    // max_write_zeroes_sectors, max_write_zeroes_seg, write_zeroes_may_unmap
    [48, 4, RANGE_SECTORS_MAX],
    [52, 4, RANGES_MAX],
    [56, 1, 1],
  ];
}

export function blockOffer(name: string, capacitySectors: number, readOnly: boolean): VirtioOffer {
  const { SEG_MAX, RO, BLK_SIZE, FLUSH, TOPOLOGY, DISCARD, WRITE_ZEROES } = BLOCK_FEATURE;
  const config = new Uint8Array(CONFIG_BYTES);
  const view = new DataView(config.buffer);
  for (const [offset, size, value] of configRows(capacitySectors)) {
    if (size === 1) view.setUint8(offset, value);
    else if (size === 2) view.setUint16(offset, value, true);
    else if (size === 4) view.setUint32(offset, value, true);
    else view.setBigUint64(offset, BigInt(value), true);
  }
  return {
    name,
    deviceId: DEVICE_ID.BLOCK,
    features: [SEG_MAX, BLK_SIZE, FLUSH, TOPOLOGY, ...(readOnly ? [RO] : [DISCARD, WRITE_ZEROES])],
    queueSizes: [BLOCK_QUEUE_SIZE],
    config,
  };
}
