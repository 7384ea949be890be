// Serves ONNX Runtime Web as onnxpool/runtimes/_child.py asks: node onnxruntime_web.mjs FOLDER_OF_NODE_MODULES

import { readFileSync, writeFileSync, writeSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { createInterface } from "node:readline";

console.log = console.info = console.debug = console.error; // standard output carries replies and nothing else

const ort = createRequire(join(process.argv[2], "package.json"))("onnxruntime-web");
ort.env.wasm.numThreads = 1;
ort.env.logLevel = "error";

// ONNX Runtime Web takes float16 as its bits.
const ARRAYS = {
  float32: Float32Array,
  float64: Float64Array,
  float16: Uint16Array,
  int64: BigInt64Array,
  uint64: BigUint64Array,
  int32: Int32Array,
  uint32: Uint32Array,
  int16: Int16Array,
  uint16: Uint16Array,
  int8: Int8Array,
  uint8: Uint8Array,
  bool: Uint8Array,
};

let session = null;

async function open(path) {
  await session?.release();
  session = null;
  session = await ort.InferenceSession.create(readFileSync(path), {
    executionProviders: ["wasm"],
    graphOptimizationLevel: "all",
    logSeverityLevel: 3,
  });
  return { version: ort.env.versions.web, providers: ["wasm"] };
}

function read([dtype, shape, file]) {
  const bytes = readFileSync(file);
  const own = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength); // aligned
  return new ort.Tensor(dtype, new ARRAYS[dtype](own), shape);
}

async function run(entries, stem) {
  const feeds = Object.fromEntries(Object.entries(entries).map(([name, entry]) => [name, read(entry)]));
  const outputs = await session.run(feeds);
  return Object.fromEntries(
    session.outputNames.map((name, i) => {
      const { type, dims, data } = outputs[name];
      const file = `${stem}.${i}`;
      writeFileSync(file, new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
      return [name, [type, dims, file]];
    }),
  );
}

async function answer(request) {
  try {
    if ("open" in request) return { facts: await open(request.open) };
    return { outputs: await run(request.run, request.to) };
  } catch (error) {
    return { error: String(error?.message ?? error) };
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  writeSync(1, JSON.stringify(await answer(JSON.parse(line))) + "\n");
}
