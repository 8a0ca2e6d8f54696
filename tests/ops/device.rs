//! A backend as the tests use it: every tensor in an arena of its own between guard words, and the drivers that run a
//! check on every CPU level and number of threads.

use asft::backend::cpu::{CpuBackend, Level, Simd};
use asft::backend::{ArenaId, Backend, Element, STEP_STATE_LEN, Scalar, View};

/// Words before and after every tensor; as f32 they are NaN, so a read beyond the end shows as well.
const GUARD: [u32; 64] = [0x7fc0_dead; 64];

/// Tensors on a backend, and the bits of what was computed.
pub struct Device<'b, B: Backend> {
    /// For the operation under test.
    pub backend: &'b mut B,
    tensors: Vec<Tensor>,
    bits: Vec<u32>,
}

struct Tensor {
    uploaded: Vec<u32>,
    written: bool,
}

impl<'b, B: Backend> Device<'b, B> {
    /// Nothing uploaded yet.
    pub fn new(backend: &'b mut B) -> Self {
        Self { backend, tensors: Vec::new(), bits: Vec::new() }
    }

    /// A tensor with these values.
    pub fn put<S: Scalar>(&mut self, values: &[S]) -> View {
        let uploaded: Vec<u32> = bytemuck::pod_collect_to_vec(values);
        let words = [&GUARD[..], &uploaded, &GUARD[..]].concat();
        let arena = ArenaId(self.tensors.len() as u32);
        self.backend.allocate(arena, 4 * words.len()).unwrap();
        self.backend.write(View { arena, element: Element::U32, offset: 0, len: words.len() }, &words);
        self.tensors.push(Tensor { uploaded, written: false });
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
    let mut all: Vec<(Level, Vec<u32>)> = Vec::new();
    for limit in [Level::Portable, Level::Avx2, Level::Avx512] {
        let simd = Simd::at_most(limit);
        if simd.level() != limit {
            println!("this machine has no {limit:?}: not run");
            continue;
        }
        let run = |threads| check(&mut CpuBackend::with_simd(threads, simd).unwrap());
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
