//! The operation [`Matmul`] on the CPU: views to operands; `product.rs` does the work.

use super::kernels::{Kernel, Target};
use super::memory::Memory;
use super::pack::Operand;
use super::product::{self, Panels};
use crate::backend::{Layout, Matmul};

/// The operation [`Matmul`].
pub fn matmul(kernel: &Kernel, threads: usize, panels: &mut Panels, memory: &mut Memory, arguments: Matmul) {
    arguments.check();
    let Matmul { layout, a_stride, m, n, k, accumulate, .. } = arguments;
    let mut access = memory.access();
    let (a, b) = (access.read::<f32>(arguments.a), access.read::<f32>(arguments.b));
    let c = access.write::<f32>(arguments.c);
    let (a, b) = match layout {
        Layout::Nt => (Operand::by_rows(a, a_stride), Operand::by_rows(b, k)),
        Layout::Nn => (Operand::by_rows(a, a_stride), Operand::by_columns(b, n)),
        Layout::Tn => (Operand::by_columns(a, a_stride), Operand::by_columns(b, n)),
    };
    let c = Target { pointer: c.as_mut_ptr(), stride: n, accumulate };
    // SAFETY: C is m rows of n elements that this operation alone holds; the backend chose the kernel for this machine.
    unsafe { product::whole(kernel, threads, panels, a, b, c, [m, n, k]) };
}
