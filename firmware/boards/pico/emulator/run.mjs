// Runs a program in rp2040js as a debug probe would on the board: standard output is channel 0 of its RTT log, and the
// semihosting call that ends it gives the exit status.
//
//     node run.mjs PROGRAM.elf none|stdio|unix:PATH [FLASH]
//
// The second argument says where UART0 is: nowhere, at standard input and output, or at a socket that hosts connect to. The third
// names the content of a serial flash at SPI0, selected by GP17.
import { readFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { ConsoleLogger, GPIOPinState, LogLevel, RP2040 } from 'rp2040js';

const [path, line = 'none', flash = null] = process.argv.slice(2);
const FLASH = 0x10000000;
const FLASH_BYTES = 2 << 20;
const RAM = 0x20000000;
// The vector table lies behind the second stage of the boot loader, which only prepares the flash chip.
const VECTORS = FLASH + 0x100;
const NS_PER_CYCLE = 8; // 125 MHz
// Instructions between two looks at log and line: a look costs more than one instruction.
const TURN = 400;
const SLEEP_NS = 1000;

const mcu = new RP2040();
const { core, clock, uart: [uart], spi: [spi], gpio } = mcu;
mcu.logger = new class extends ConsoleLogger {
  // The emulator's SEV only logs; an executor that sends itself an event would sleep for ever.
  info(component, message) {
    if (message === 'SEV') core.eventRegistered = true;
    super.info(component, message);
  }
}(LogLevel.Error);

const elf = readFileSync(path);
const rtt = load(elf);
core.VTOR = VECTORS;
core.SP = mcu.readUint32(VECTORS);
core.PC = mcu.readUint32(VECTORS + 4) & ~1;
mcu.onBreak = semihosting;

let ended = false;
let sent = () => {};
const received = [];
connect(line);
if (flash !== null) solder(readFileSync(flash));
turn();

// Copies what lies in flash, and returns the address of the log.
function load(elf) {
  const half = (at) => elf.readUInt16LE(at);
  const word = (at) => elf.readUInt32LE(at);
  for (let i = 0; i < half(44); i++) {
    const header = word(28) + i * half(42);
    const [type, offset, , address, bytes] = [0, 4, 8, 12, 16].map((field) => word(header + field));
    if (type === 1 && bytes > 0 && address >= FLASH && address + bytes <= FLASH + FLASH_BYTES) {
      mcu.flash.set(elf.subarray(offset, offset + bytes), address - FLASH);
    }
  }
  const section = (i) => word(32) + i * half(46);
  for (let i = 0; i < half(48); i++) {
    const SYMBOLS = 2;
    if (word(section(i) + 4) !== SYMBOLS) continue;
    const [from, bytes, names] = [word(section(i) + 16), word(section(i) + 20), word(section(word(section(i) + 24)) + 16)];
    for (let symbol = from; symbol < from + bytes; symbol += 16) {
      const name = names + word(symbol);
      if (elf.subarray(name, elf.indexOf(0, name)).toString() === '_SEGGER_RTT') return word(symbol + 4);
    }
  }
  return null;
}

// The program ends itself by `BKPT 0xab`; it has failed at any other breakpoint.
function semihosting(code) {
  const EXIT = 0x18;
  const EXIT_EXTENDED = 0x20;
  const FINE = 0x20026;
  const [operation, argument] = core.registers;
  log();
  if (code === 0xab && operation === EXIT) process.exitCode = argument === FINE ? 0 : 1;
  else if (code === 0xab && operation === EXIT_EXTENDED) process.exitCode = mcu.readUint32(argument + 4);
  else {
    console.error(`breakpoint ${code} at ${core.PC.toString(16)}`);
    process.exitCode = 1;
  }
  ended = true;
}

function connect(line) {
  const open = (input, output) => {
    input.on('data', (bytes) => received.push(...bytes));
    sent = (byte) => output.write(Uint8Array.of(byte));
  };
  uart.onByte = (byte) => sent(byte);
  if (line === 'stdio') open(process.stdin, process.stdout);
  else if (line.startsWith('unix:')) createServer((socket) => open(socket.on('error', () => {}), socket)).listen(line.slice(5));
}

// A flash that knows the command 03h, "read data". A byte takes eight periods of the bus's clock.
function solder(bytes) {
  const READ = 0x03;
  const select = gpio[17];
  let count = 0;
  let reads = false;
  let at = 0;
  let answer = 0xff;
  select.addListener(() => { count = 0; });
  const moved = clock.createAlarm(() => spi.completeTransmit(answer));
  spi.onTransmit = (byte) => {
    answer = 0xff;
    if (select.value === GPIOPinState.Low) {
      if (count === 0) [reads, at] = [byte === READ, 0];
      else if (count < 4) at = at << 8 | byte;
      else if (reads) answer = bytes[at++] ?? 0xff;
      count++;
    }
    moved.schedule(8e9 / spi.clockFrequency);
  };
}

// Writes what the program has logged to standard output.
function log() {
  if (rtt === null) return;
  const at = rtt - RAM;
  const ram = Buffer.from(mcu.sram.buffer);
  // The block is there once the program has copied its variables from the flash.
  if (ram.toString('latin1', at, at + 10) !== 'SEGGER RTT') return;
  const [buffer, size, write, read] = [28, 32, 36, 40].map((field) => ram.readUInt32LE(at + field));
  // The program waits where the buffer is full.
  const BLOCK = 2;
  ram.writeUInt32LE(BLOCK, at + 44);
  const bytes = (from, to) => Buffer.from(ram.subarray(buffer - RAM + from, buffer - RAM + to));
  if (write > read) process.stdout.write(bytes(read, write));
  if (write < read) process.stdout.write(Buffer.concat([bytes(read, size), bytes(0, write)]));
  ram.writeUInt32LE(write, at + 40);
}

function turn() {
  for (let i = 0; i < TURN * 100 && !ended; i++) {
    if (i % TURN === 0) {
      log();
      while (received.length > 0 && !uart.rxFIFO.full) uart.feedByte(received.shift());
    }
    if (core.waiting) {
      // Whoever sets an interrupt wakes the core; the line is one of them.
      clock.tick(Math.min(clock.nanosToNextAlarm || SLEEP_NS, SLEEP_NS));
    } else {
      clock.tick(core.executeInstruction() * NS_PER_CYCLE);
    }
  }
  if (ended) process.stdin.destroy();
  else setImmediate(turn);
}
