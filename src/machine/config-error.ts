// The error of a configuration that cannot work, for everything that finds one out.

/** `field` is the path of the offending value. */
export class ConfigError extends Error {
  override readonly name = 'ConfigError';
  constructor(
    readonly field: string,
    message: string,
  ) {
    super(`${field}: ${message}`);
  }
}
