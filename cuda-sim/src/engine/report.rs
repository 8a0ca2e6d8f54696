//! What one launch did, counted.

use super::ir::{CLASS_NAMES, CLASSES};
use std::fmt::Write;

/// Traffic of one kind of access to global memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GlobalTraffic {
    /// Warp instructions that accessed global memory.
    pub requests: u64,
    /// Bytes that threads asked for, counted once per thread.
    pub bytes: u64,
    /// Bytes that threads asked for, counted once per warp instruction.
    pub unique_bytes: u64,
    /// 32-byte sectors touched, counted once per warp instruction.
    pub sectors: u64,
}

impl GlobalTraffic {
    /// Used bytes over moved bytes; 1 where nothing was moved.
    pub fn efficiency(&self) -> f64 {
        if self.sectors == 0 { 1.0 } else { self.unique_bytes as f64 / (self.sectors * 32) as f64 }
    }

    fn add(&mut self, other: &GlobalTraffic) {
        self.requests += other.requests;
        self.bytes += other.bytes;
        self.unique_bytes += other.unique_bytes;
        self.sectors += other.sectors;
    }
}

/// Traffic of one kind of access to shared memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SharedTraffic {
    /// Warp instructions that accessed shared memory.
    pub requests: u64,
    /// Bytes that threads asked for.
    pub bytes: u64,
    /// Passes over the 32 banks that were needed.
    pub wavefronts: u64,
    /// Passes beyond those that the same accesses need without bank conflicts.
    pub bank_conflicts: u64,
}

impl SharedTraffic {
    fn add(&mut self, other: &SharedTraffic) {
        self.requests += other.requests;
        self.bytes += other.bytes;
        self.wavefronts += other.wavefronts;
        self.bank_conflicts += other.bank_conflicts;
    }
}

/// The counters of one launch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The kernel.
    pub kernel: String,
    /// Blocks in x, y, z.
    pub grid: [u32; 3],
    /// Threads per block in x, y, z.
    pub block: [u32; 3],
    /// 32-bit registers per thread.
    pub registers: u32,
    /// Shared memory per block in bytes, static and dynamic.
    pub shared_bytes: u32,
    /// Loads from global memory.
    pub global_read: GlobalTraffic,
    /// Stores to global memory.
    pub global_write: GlobalTraffic,
    /// Atomics and reductions on global memory.
    pub global_atomic: GlobalTraffic,
    /// Loads from shared memory, `ldmatrix` included.
    pub shared_read: SharedTraffic,
    /// Stores to shared memory, `stmatrix` and asynchronous copies included.
    pub shared_write: SharedTraffic,
    /// Atomics on shared memory.
    pub shared_atomic: SharedTraffic,
    /// Bytes loaded from and stored to local memory (spills and local arrays).
    pub local_bytes: u64,
    /// Warp instructions.
    pub warp_instructions: u64,
    /// Instructions counted once per thread that executed them.
    pub thread_instructions: u64,
    /// The same by class, in the order of [`Report::CLASSES`].
    pub by_class: [u64; CLASSES],
    /// Multiplications and additions done by tensor cores.
    pub tensor_operations: u64,
    /// Barriers of blocks that completed.
    pub barriers: u64,
    /// What the kernel printed.
    pub output: String,
}

impl Report {
    /// The names of the instruction classes.
    pub const CLASSES: [&'static str; CLASSES] = CLASS_NAMES;

    /// Thread instructions of a class, by its name.
    pub fn class(&self, name: &str) -> Option<u64> {
        CLASS_NAMES.iter().position(|class| *class == name).map(|index| self.by_class[index])
    }

    /// Adds another part of the same launch.
    pub(crate) fn add(&mut self, other: &Report) {
        self.global_read.add(&other.global_read);
        self.global_write.add(&other.global_write);
        self.global_atomic.add(&other.global_atomic);
        self.shared_read.add(&other.shared_read);
        self.shared_write.add(&other.shared_write);
        self.shared_atomic.add(&other.shared_atomic);
        self.local_bytes += other.local_bytes;
        self.warp_instructions += other.warp_instructions;
        self.thread_instructions += other.thread_instructions;
        for (sum, part) in self.by_class.iter_mut().zip(&other.by_class) {
            *sum += part;
        }
        self.tensor_operations += other.tensor_operations;
        self.barriers += other.barriers;
        self.output.push_str(&other.output);
    }

    /// The report as one line of JSON, without the line break. What was printed is not part of it.
    pub fn to_json(&self) -> String {
        let mut json = String::from("{\"kernel\":");
        push_string(&mut json, &self.kernel);
        // Writing to a string cannot fail.
        let _ = write!(json, ",\"grid\":{:?},\"block\":{:?}", self.grid, self.block);
        let mut field = |name: &str, value: u64| {
            let _ = write!(json, ",\"{name}\":{value}");
        };
        field("registers", u64::from(self.registers));
        field("shared_bytes", u64::from(self.shared_bytes));
        for (name, traffic) in
            [("read", &self.global_read), ("write", &self.global_write), ("atomic", &self.global_atomic)]
        {
            field(&format!("global_{name}_requests"), traffic.requests);
            field(&format!("global_{name}_bytes"), traffic.bytes);
            field(&format!("global_{name}_unique_bytes"), traffic.unique_bytes);
            field(&format!("global_{name}_sectors"), traffic.sectors);
        }
        for (name, traffic) in
            [("read", &self.shared_read), ("write", &self.shared_write), ("atomic", &self.shared_atomic)]
        {
            field(&format!("shared_{name}_requests"), traffic.requests);
            field(&format!("shared_{name}_bytes"), traffic.bytes);
            field(&format!("shared_{name}_wavefronts"), traffic.wavefronts);
            field(&format!("shared_{name}_bank_conflicts"), traffic.bank_conflicts);
        }
        field("local_bytes", self.local_bytes);
        field("warp_instructions", self.warp_instructions);
        field("thread_instructions", self.thread_instructions);
        for (name, count) in CLASS_NAMES.iter().zip(self.by_class) {
            field(&format!("{name}_instructions"), count);
        }
        field("tensor_operations", self.tensor_operations);
        field("barriers", self.barriers);
        let _ = write!(json, ",\"global_read_efficiency\":{:.4}", self.global_read.efficiency());
        let _ = write!(json, ",\"global_write_efficiency\":{:.4}}}", self.global_write.efficiency());
        json
    }
}

fn push_string(json: &mut String, text: &str) {
    json.push('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => json.extend(['\\', character]),
            control if control < ' ' => {
                let _ = write!(json, "\\u{:04x}", u32::from(control));
            }
            other => json.push(other),
        }
    }
    json.push('"');
}
