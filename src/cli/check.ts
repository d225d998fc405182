// `microvisor check`: what this host offers and what is missing, as a table or as JSON.
// Our own; status 0 when VMs can run here, else 1.
import type { DefineVerb } from './verb.js';

const AFTER_HELP = `
Status: 0 VMs can run here, 1 they cannot.
`;
const DEFAULT_COLUMNS = 80;

export const define: DefineVerb = (command, { end }) => {
  command
    .option('--json', 'print everything that was found as JSON')
    .addHelpText('after', AFTER_HELP)
    .action(async ({ json }: { json?: true }) => {
      const [{ readHostFacts }, { checkHost }] = await Promise.all([
        import('./check-facts.js'),
        import('./check-rows.js'),
      ]);
      const facts = readHostFacts();
      const result = checkHost(facts);
      if (json === true) process.stdout.write(`${JSON.stringify({ ...result, facts }, undefined, 2)}\n`);
      else {
        const { formatCheck } = await import('./check-table.js');
        const columns = process.stdout.isTTY ? process.stdout.columns : DEFAULT_COLUMNS;
        // https://no-color.org: set and not empty means no colour.
        const colour = process.stdout.isTTY && (process.env['NO_COLOR'] ?? '') === '';
        process.stdout.write(formatCheck(result, { columns, colour }));
      }
      end({ status: result.usable ? 0 : 1 });
    });
};
