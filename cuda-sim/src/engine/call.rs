//! Calls, returns, and the functions that the runtime provides (`vprintf`, `__assertfail`).

use super::error::FindingKind;
use super::execute::{Executor, Fault, Flow};
use super::ir::{Argument, Call, Callee, FUNCTION_ADDRESS, Parameter};
use super::lower::lanes;
use super::registers::Source;
use super::warp::State;

/// A printed string is cut here; a longer one has surely lost its end.
const MAX_STRING: usize = 4096;

impl Executor<'_, '_> {
    pub(super) fn call(&mut self, call: &Call, mask: u32, active: u32) -> Result<Flow, Fault> {
        match call.callee {
            Callee::Function(function) => self.enter_function(function, call, mask, active),
            Callee::Indirect(source) => self.indirect_call(source, call, mask, active),
            Callee::Print => self.print(call, active).map(|()| Flow::Next),
            Callee::AssertFail => self.assertion_failed(call, active),
        }
    }

    fn indirect_call(&mut self, source: Source, call: &Call, mask: u32, active: u32) -> Result<Flow, Fault> {
        let addresses = self.warp.registers.read::<u64>(source);
        let first = active.trailing_zeros() as usize;
        let address = addresses[first];
        let same =
            lanes(active).filter(|lane| addresses[*lane] == address).fold(0, |bits, lane| bits | 1 << lane);
        let index = address.wrapping_sub(FUNCTION_ADDRESS) / 16;
        let program = self.launch.program;
        let function = program.by_module_index.get(index as usize).copied().flatten();
        let Some(function) = function.filter(|_| address.wrapping_sub(FUNCTION_ADDRESS).is_multiple_of(16))
        else {
            let message = format!("a call through {address:#x}, which is no function");
            return Err(Fault::new(FindingKind::InvalidOperand, first, message));
        };
        // Lanes with another function come back to this instruction afterwards.
        let others = active & !same;
        self.warp.split(others, self.pc, State::Ready);
        self.enter_function(function, call, mask & !others, same)
    }

    fn enter_function(&mut self, function: u32, call: &Call, mask: u32, active: u32) -> Result<Flow, Fault> {
        let program = self.launch.program;
        let first = active.trailing_zeros() as usize;
        let callee = &program.functions[function as usize];
        if callee.parameters.len() != call.arguments.len() || callee.results.len() != call.results.len() {
            let message = format!(
                "{} arguments and {} results for a function of {} and {}",
                call.arguments.len(),
                call.results.len(),
                callee.parameters.len(),
                callee.results.len()
            );
            return Err(Fault::new(FindingKind::InvalidOperand, first, message));
        }
        self.warp.split(mask & !active, self.pc + 1, State::Ready);
        let Some(group) = self.warp.groups.last() else { return Ok(Flow::Choose) };
        let parent = group.frame;
        let frame = self
            .warp
            .push_frame(&program.functions, function, parent, self.pc, active)
            .map_err(|message| Fault::new(FindingKind::StackOverflow, first, message))?;
        let (from, to) = (self.warp.frames[parent].local_base, self.warp.frames[frame].local_base);
        for (argument, parameter) in call.arguments.iter().zip(&callee.parameters) {
            self.pass(*argument, *parameter, from, to, active);
        }
        if let Some(group) = self.warp.groups.last_mut() {
            group.frame = frame;
            group.pc = 0;
        }
        Ok(Flow::Choose)
    }

    /// Copies an argument into the callee's frame.
    fn pass(&mut self, argument: Argument, parameter: Parameter, from: u32, to: u32, active: u32) {
        let bytes = parameter.bytes as usize;
        let to = (to + parameter.offset) as usize;
        for lane in lanes(active) {
            match argument {
                Argument::Frame(offset) => {
                    let value = self.warp.local.bytes(lane, (from + offset) as usize, bytes);
                    self.warp.local.set_bytes(lane, to, &value);
                }
                Argument::Value(source) => {
                    let value = self.warp.registers.read_lane::<u64>(source, lane).to_le_bytes();
                    self.warp.local.set_bytes(lane, to, &value[..bytes.min(8)]);
                }
                Argument::Register(_) | Argument::Ignored => {}
            }
        }
    }

    /// Returns from a function.
    pub(super) fn leave(&mut self, mask: u32, active: u32) -> Result<Flow, Fault> {
        self.warp.split(mask & !active, self.pc + 1, State::Ready);
        let Some(group) = self.warp.groups.last() else { return Ok(Flow::Choose) };
        let frame = self.warp.frames[group.frame].clone();
        let program = self.launch.program;
        let parent = self.warp.frames[frame.parent].clone();
        let caller = &program.functions[parent.function as usize];
        if let super::ir::Operation::Call(call) = &caller.code[frame.call_pc as usize].operation {
            let callee = &program.functions[frame.function as usize];
            self.warp.enter(frame.parent);
            for (result, parameter) in call.results.iter().zip(&callee.results) {
                self.hand_back(*result, *parameter, frame.local_base, parent.local_base, active);
            }
        }
        let index = self.warp.groups.last().map_or(0, |group| group.frame);
        self.warp.frames[index].live &= !active;
        if let Some(group) = self.warp.groups.last_mut() {
            group.frame = frame.parent;
            group.pc = frame.call_pc + 1;
        }
        self.warp.drop_empty();
        Ok(Flow::Choose)
    }

    /// Copies a result into the caller's frame or register.
    fn hand_back(&mut self, result: Argument, parameter: Parameter, from: u32, to: u32, active: u32) {
        let bytes = parameter.bytes as usize;
        for lane in lanes(active) {
            let value = self.warp.local.bytes(lane, (from + parameter.offset) as usize, bytes);
            match result {
                Argument::Frame(offset) => self.warp.local.set_bytes(lane, (to + offset) as usize, &value),
                Argument::Register(target) => {
                    let mut bits = [0; 8];
                    bits[..bytes.min(8)].copy_from_slice(&value[..bytes.min(8)]);
                    self.warp.registers.write_lane::<u64>(target, lane, u64::from_le_bytes(bits));
                }
                Argument::Value(_) | Argument::Ignored => {}
            }
        }
    }

    /// The value of a 32- or 64-bit argument of a runtime function.
    fn argument(&self, call: &Call, index: usize, lane: usize) -> u64 {
        match call.arguments.get(index) {
            Some(Argument::Frame(offset)) => {
                let base = self.warp.registers.local_base + offset;
                let bytes =
                    self.warp.local.bytes(lane, base as usize, 8.min(self.warp.local.stride - base as usize));
                let mut bits = [0; 8];
                bits[..bytes.len()].copy_from_slice(&bytes);
                u64::from_le_bytes(bits)
            }
            Some(Argument::Value(source)) => self.warp.registers.read_lane::<u64>(*source, lane),
            _ => 0,
        }
    }

    /// A string that ends with a zero byte, anywhere in memory.
    fn string(&mut self, lane: usize, address: u64) -> Result<String, Fault> {
        let mut bytes = Vec::new();
        while bytes.len() < MAX_STRING {
            let mut byte = [0];
            self.peek(lane, address + bytes.len() as u64, &mut byte)?;
            if byte[0] == 0 {
                break;
            }
            bytes.push(byte[0]);
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// `vprintf(format, arguments)`: the arguments lie packed in memory, aligned to their sizes.
    fn print(&mut self, call: &Call, active: u32) -> Result<(), Fault> {
        for lane in lanes(active) {
            let (format, list) = (self.argument(call, 0, lane), self.argument(call, 1, lane));
            let format = self.string(lane, format)?;
            let text = self.format(lane, &format, list)?;
            self.report.output.push_str(&text);
        }
        if let Some(Argument::Frame(offset)) = call.results.first() {
            let base = (self.warp.registers.local_base + offset) as usize;
            for lane in lanes(active) {
                self.warp.local.set_bytes(lane, base, &1u32.to_le_bytes());
            }
        }
        Ok(())
    }

    fn format(&mut self, lane: usize, format: &str, list: u64) -> Result<String, Fault> {
        let mut output = String::new();
        let mut offset = 0u64;
        let mut rest = format;
        while let Some(at) = rest.find('%') {
            output.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix('%') {
                output.push('%');
                rest = after;
                continue;
            }
            let Some(end) =
                rest.find(|c: char| c.is_ascii_alphabetic() && !matches!(c, 'l' | 'h' | 'z' | 'j' | 't'))
            else {
                break;
            };
            let conversion = rest.as_bytes()[end];
            let flags = &rest[..end];
            rest = &rest[end + 1..];
            let is_long = flags.contains(['l', 'z', 'j', 't']);
            let wide = matches!(conversion, b's' | b'p') || b"aAeEfFgG".contains(&conversion) || is_long;
            let size = if wide { 8 } else { 4 };
            offset = offset.next_multiple_of(size);
            let mut bytes = [0; 8];
            self.peek(lane, list + offset, &mut bytes[..size as usize])?;
            offset += size;
            let bits = u64::from_le_bytes(bytes);
            let text = match conversion {
                b's' => self.string(lane, bits)?,
                _ => super::print::number(conversion, wide, bits, flags),
            };
            output.push_str(&super::print::pad(&text, flags, conversion));
        }
        output.push_str(rest);
        Ok(output)
    }

    /// `__assertfail(message, file, line, function, char size)`.
    fn assertion_failed(&mut self, call: &Call, active: u32) -> Result<Flow, Fault> {
        let lane = active.trailing_zeros() as usize;
        let (message, file) = (self.argument(call, 0, lane), self.argument(call, 1, lane));
        let line = self.argument(call, 2, lane) as u32;
        let (message, file) = (self.string(lane, message)?, self.string(lane, file)?);
        Err(Fault::new(FindingKind::Trap, lane, format!("{file}:{line}: the assertion `{message}` failed")))
    }
}
