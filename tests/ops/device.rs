//! A backend as the tests use it: every tensor in an arena of its own between guard words, and the drivers that run a
//! check on every CPU level and number of threads.

use asft::backend::cpu::{CpuBackend, Level, Operands, Simd};
use asft::backend::{ArenaId, Backend, Element, STEP_STATE_LEN, Scalar, View};
use half::bf16;

/// Words before and after every tensor; as f32 they are NaN, so a read beyond the end shows as well.
const GUARD: [u32; 64] = [0x7fc0_dead; 64];
/// The rest of a tensor's last word.
const FILLER: [u8; 3] = [0xde, 0xad, 0xbe];

/// How a check's stored values are kept: weights, activations and their gradients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    F32,
    Bf16,
    /// f32, of which products take bf16: the CPU's `--dtype bf16`. A check's values are such as bf16 can hold.
    Operands,
}

impl Storage {
    /// The values that can be stored, nearest to these.
    pub fn rounded(self, values: &[f32]) -> Vec<f32> {
        match self {
            Storage::F32 => values.to_vec(),
            Storage::Bf16 | Storage::Operands => {
                values.iter().map(|&value| bf16::from_f32(value).to_f32()).collect()
            }
        }
    }

    /// What is left of a result that is kept so.
    pub fn kept(self, values: &[f32]) -> Vec<f32> {
        if self == Storage::Bf16 { self.rounded(values) } else { values.to_vec() }
    }

    /// `len` standard normal numbers that can be stored.
    pub fn normal(self, seed: u64, len: usize) -> Vec<f32> {
        self.rounded(&normal(seed, len))
    }
}

/// Tensors on a backend, and the bits of what was computed.
pub struct Device<'b, B: Backend> {
    /// For the operation under test.
    pub backend: &'b mut B,
    pub storage: Storage,
    tensors: Vec<Tensor>,
    bits: Vec<u32>,
}

struct Tensor {
    uploaded: Vec<u32>,
    /// Bytes of the last word that belong to nobody.
    filler: usize,
    written: bool,
}

impl<'b, B: Backend> Device<'b, B> {
    /// Nothing uploaded yet; stored values are f32.
    pub fn new(backend: &'b mut B) -> Self {
        Self::storing(backend, Storage::F32)
    }

    /// Nothing uploaded yet.
    pub fn storing(backend: &'b mut B, storage: Storage) -> Self {
        Self { backend, storage, tensors: Vec::new(), bits: Vec::new() }
    }

    /// A tensor of stored values, which must be such as can be stored.
    pub fn store(&mut self, values: &[f32]) -> View {
        let stored = self.storage.rounded(values);
        assert!(bits(&stored) == bits(values), "values that cannot be stored as {:?}", self.storage);
        match self.storage {
            Storage::F32 | Storage::Operands => self.put(values),
            Storage::Bf16 => self.put(&values.iter().map(|&value| bf16::from_f32(value)).collect::<Vec<_>>()),
        }
    }

    /// A tensor for a stored result: NaN until the operation writes it.
    pub fn store_out(&mut self, len: usize) -> View {
        self.store(&vec![f32::NAN; len])
    }

    /// What the operation left in a tensor of stored values.
    pub fn stored(&mut self, view: View) -> Vec<f32> {
        match self.storage {
            Storage::F32 | Storage::Operands => self.result(view),
            Storage::Bf16 => self.result::<bf16>(view).into_iter().map(bf16::to_f32).collect(),
        }
    }

    /// A tensor with these values.
    pub fn put<S: Scalar>(&mut self, values: &[S]) -> View {
        let mut bytes = bytemuck::cast_slice::<S, u8>(values).to_vec();
        // What fills the last word is a guard, too.
        let filler = bytes.len().next_multiple_of(4) - bytes.len();
        bytes.extend_from_slice(&FILLER[..filler]);
        let uploaded: Vec<u32> = bytemuck::pod_collect_to_vec(&bytes);
        let words = [&GUARD[..], &uploaded, &GUARD[..]].concat();
        let arena = ArenaId(self.tensors.len() as u32);
        self.backend.allocate(arena, 4 * words.len()).unwrap();
        self.backend.write(View { arena, element: Element::U32, offset: 0, len: words.len() }, &words);
        self.tensors.push(Tensor { uploaded, filler, written: false });
        let offset = 4 * GUARD.len() / S::ELEMENT.bytes();
        View { arena, element: S::ELEMENT, offset, len: values.len() }
    }

    /// A tensor for a result: NaN until the operation writes it.
    pub fn out(&mut self, len: usize) -> View {
        self.put(&vec![f32::NAN; len])
    }

    /// A step's state: clip factor and flag.
    pub fn state(&mut self, clip_factor: f64, bad: bool) -> View {
        let mut state = [0.0; STEP_STATE_LEN];
        state[asft::backend::CLIP_FACTOR] = clip_factor;
        state[asft::backend::BAD] = f64::from(u8::from(bad));
        self.put(&state)
    }

    /// What the operation left in a tensor it may write.
    pub fn result<S: Scalar>(&mut self, view: View) -> Vec<S> {
        let index = view.arena.0 as usize;
        let words = self.words(index);
        self.tensors[index].written = true;
        let mut values = vec![<S as bytemuck::Zeroable>::zeroed(); view.len];
        self.backend.read(view, &mut values).unwrap();
        self.bits.extend(words);
        values
    }

    /// The tensor may be overwritten with anything.
    pub fn scratch(&mut self, view: View) {
        self.tensors[view.arena.0 as usize].written = true;
    }

    fn words(&mut self, index: usize) -> Vec<u32> {
        let len = self.tensors[index].uploaded.len() + 2 * GUARD.len();
        let view = View { arena: ArenaId(index as u32), element: Element::U32, offset: 0, len };
        let mut words = vec![0; len];
        self.backend.read(view, &mut words).unwrap();
        let inside = GUARD.len()..len - GUARD.len();
        assert_eq!(words[..inside.start], GUARD, "something wrote before the start of tensor {index}");
        assert_eq!(words[inside.end..], GUARD, "something wrote beyond the end of tensor {index}");
        let filler = self.tensors[index].filler;
        let bytes: &[u8] = bytemuck::cast_slice(&words[inside.clone()]);
        assert_eq!(
            bytes[bytes.len() - filler..],
            FILLER[..filler],
            "something wrote beyond the end of tensor {index}"
        );
        words[inside].to_vec()
    }

    /// Checks that nothing but results was written, and gives the bits of all results in the order they were read.
    pub fn finish(mut self) -> Vec<u32> {
        for index in 0..self.tensors.len() {
            let words = self.words(index);
            let tensor = &self.tensors[index];
            assert!(tensor.written || words == tensor.uploaded, "operand {index} has been changed");
            self.backend.free(ArenaId(index as u32));
        }
        self.bits
    }
}

/// Whether an operation has the same bits at every instruction-set level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Levels {
    /// Element-wise arithmetic and reductions in fixed lanes: nothing is contracted.
    SameBits,
    /// Matrix products: fused multiply-add where the level has it.
    OwnBits,
}

/// Runs a check on every level this machine has, with 1, 2 and 3 threads, which must give the same bits.
pub fn on_every_cpu(levels: Levels, check: impl Fn(&mut CpuBackend) -> Vec<u32>) {
    on_every_cpu_with(Operands::F32, levels, check);
}

/// The same with products of bf16.
pub fn on_every_cpu_in_bf16(check: impl Fn(&mut CpuBackend) -> Vec<u32>) {
    on_every_cpu_with(Operands::Bf16, Levels::OwnBits, check);
}

fn on_every_cpu_with(operands: Operands, levels: Levels, check: impl Fn(&mut CpuBackend) -> Vec<u32>) {
    let mut all: Vec<(Level, Vec<u32>)> = Vec::new();
    for limit in [Level::Portable, Level::Avx2, Level::Avx512, Level::Avx512Bf16, Level::Amx] {
        let simd = Simd::at_most(limit);
        if simd.level() != limit {
            println!("this machine has no {limit:?}: not run");
            continue;
        }
        let run = |threads| check(&mut CpuBackend::with_simd(threads, simd).unwrap().with_operands(operands));
        let one = run(1);
        assert!(!one.is_empty(), "the check computed nothing");
        for threads in [2, 3] {
            assert!(one == run(threads), "{limit:?}: other bits with {threads} threads than with one");
        }
        all.push((limit, one));
    }
    if levels == Levels::SameBits {
        for (level, bits) in &all {
            assert!(*bits == all[0].1, "other bits at {level:?} than at {:?}", all[0].0);
        }
    }
}

/// `len` standard normal numbers, rounded to f32.
pub fn normal(seed: u64, len: usize) -> Vec<f32> {
    crate::reference::normal(seed, len).into_iter().map(|x| x as f32).collect()
}

/// The same numbers as the twin takes them.
pub fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&x| f64::from(x)).collect()
}

/// Bits, for comparisons in which NaN equals NaN and 0 differs from -0.
pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}
