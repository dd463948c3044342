// Runs a model by the module of `bindings/web`: compares its kernels with the portable ones, then inferences of
// random inputs with both, and prints the time of one.
//
//     node bindings/web/run.mjs web.wasm FILE.sfm

import fs from 'node:fs';

const [modulePath, modelPath] = process.argv.slice(2);
if (!modelPath) {
  console.error('usage: node bindings/web/run.mjs web.wasm FILE.sfm');
  process.exit(2);
}
const { instance } = await WebAssembly.instantiate(fs.readFileSync(modulePath), {});
const shiftformer = instance.exports;
// The memory may grow and move at every call: a view is made anew.
const at = (address, length) => new Uint8Array(shiftformer.memory.buffer, address, length);

function must(code) {
  if (code === 0) return;
  console.error(`error: ${Buffer.from(at(shiftformer.message(), shiftformer.message_bytes())).toString()}`);
  process.exit(1);
}

must(shiftformer.check());
console.log('every kernel as the portable one');

const file = fs.readFileSync(modelPath);
const address = shiftformer.reserve(file.length);
at(address, file.length).set(file);
must(shiftformer.open(address, file.length));

const [inputBytes, outputBytes] = [shiftformer.input_bytes(), shiftformer.output_bytes()];
const [input, output] = [shiftformer.reserve(inputBytes), shiftformer.reserve(outputBytes)];
const run = (portable) => {
  must(shiftformer.run(input, inputBytes, output, outputBytes, portable));
  return Buffer.from(at(output, outputBytes)).toString('hex');
};
let seed = 1;
const random = () => {
  seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
  return seed >>> 24;
};
for (let sample = 0; sample < 32; sample++) {
  at(input, inputBytes).forEach((_, index, bytes) => (bytes[index] = random()));
  if (run(0) !== run(1)) {
    console.error(`error: sample ${sample} differs from the portable kernels`);
    process.exit(1);
  }
}
console.log('32 inferences as by the portable kernels');

// The fastest of several rounds: others use the machine too.
const time = (portable) => {
  const call = () => shiftformer.run(input, inputBytes, output, outputBytes, portable);
  for (let warm = 0; warm < 300; warm++) call();
  let best = Infinity;
  for (let round = 0; round < 20; round++) {
    const start = performance.now();
    for (let turn = 0; turn < 20; turn++) call();
    best = Math.min(best, (performance.now() - start) / 20);
  }
  return `${(best * 1000).toFixed(0)} us`;
};
console.log(`one inference: ${time(0)}, by the portable kernels ${time(1)}`);
