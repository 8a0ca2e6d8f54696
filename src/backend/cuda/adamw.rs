//! Launches of `kernels/adamw.cu`: the elements of the views say which.

use cudarc::driver::CudaFunction;

use super::CudaBackend;
use super::kernels::Kernels;
use super::launch::{Argument, arguments};
use crate::backend::{Adamw, AdamwFactors, Element, MOMENT_BLOCK, STEP_STATE_LEN, View};

/// Threads of a block: eight warps, each of which takes pieces of [`MOMENT_BLOCK`] elements.
const THREADS: usize = 256;
/// Elements that a block takes.
const BLOCK: usize = THREADS / 32 * MOMENT_BLOCK;
/// The same with 8-bit moments, where every block first makes the maps of the codes.
const BLOCK_8BIT: usize = 16 * BLOCK;

/// The operation [`Adamw`].
pub fn adamw(backend: &mut CudaBackend, a: Adamw) {
    let elements = a.parameters.len;
    let sizes = [a.gradients.len, a.first_moment.len, a.second_moment.len, a.state.len];
    assert_eq!(sizes, [elements, elements, elements, STEP_STATE_LEN], "{a:?}");
    let others = (a.gradients.element, a.second_moment.element, a.state.element);
    assert_eq!(others, (Element::F32, a.first_moment.element, Element::F64), "{a:?}");
    let parameters = aligned(backend, a.parameters);
    let (first, second) = (aligned(backend, a.first_moment), aligned(backend, a.second_moment));
    match (a.parameters.element, a.remainder, a.first_moment.element, a.scales) {
        (Element::F32, None, Element::F32, None) => {
            launch(backend, |k| &k.adamw_f32, &a, BLOCK, arguments![parameters, first, second]);
        }
        (Element::Bf16, Some(remainder), Element::F32, None) => {
            assert_eq!((remainder.element, remainder.len), (Element::U16, elements), "{a:?}");
            let remainder = aligned(backend, remainder);
            let own = arguments![parameters, remainder, first, second];
            launch(backend, |k| &k.adamw_remainder, &a, BLOCK, own);
        }
        (Element::Bf16, None, Element::Bf16, None) => {
            let own = arguments![parameters, first, second, a.seed, a.step, first_piece(&a)];
            launch(backend, |k| &k.adamw_bf16, &a, BLOCK, own);
        }
        (Element::Bf16, None, Element::U8, Some(scales)) => {
            let blocks = elements.div_ceil(MOMENT_BLOCK);
            let [first_scales, second_scales] = scales.map(|view| {
                assert_eq!((view.element, view.len), (Element::F32, blocks), "{a:?}");
                backend.at(view)
            });
            let piece = first_piece(&a);
            let own =
                arguments![parameters, first, second, first_scales, second_scales, a.seed, a.step, piece];
            launch(backend, |k| &k.adamw_8bit, &a, BLOCK_8BIT, own);
        }
        formats => panic!("no kernel for these formats: {formats:?}"),
    }
}

/// The address of a run, which is read 16 bytes at a time.
fn aligned(backend: &CudaBackend, view: View) -> u64 {
    let address = backend.at(view);
    assert!(address.is_multiple_of(16), "{view:?} is at no multiple of 16 bytes");
    address
}

/// Where the run begins in its arena, in blocks: with a lane's place what random bits are drawn for.
fn first_piece(a: &Adamw) -> u64 {
    assert!(a.parameters.offset.is_multiple_of(MOMENT_BLOCK), "{:?} begins within a block", a.parameters);
    (a.parameters.offset / MOMENT_BLOCK) as u64
}

/// One launch: a format's own arguments and those that all have.
fn launch(
    backend: &mut CudaBackend,
    function: impl for<'k> Fn(&'k Kernels) -> &'k CudaFunction,
    a: &Adamw,
    block: usize,
    own: &mut [Argument],
) {
    let (gradients, state) = (aligned(backend, a.gradients), backend.at(a.state));
    let elements = a.parameters.len as u64;
    let AdamwFactors { beta1, rest1, beta2, rest2, step_size, correction, keep, epsilon } = a.factors();
    let rest = arguments![
        gradients, state, elements, beta1, rest1, beta2, rest2, step_size, correction, keep, epsilon
    ];
    let grid = (a.parameters.len.div_ceil(block), 1);
    // SAFETY: a kernel's warps share out the elements whatever the grid, and touch none beyond their number, which is that
    // of every operand; `own` is what the kernel begins with.
    unsafe { backend.launch(function, grid, (THREADS as u32, 1), &mut [&own[..], &rest[..]].concat()) };
}
