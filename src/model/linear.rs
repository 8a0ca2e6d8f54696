//! A linear layer: what the model multiplies by. Without a gradient view there is no weight-gradient product.

use crate::backend::{Backend, Layout, Matmul, View};

/// `y = x W^T`, `W [outputs, inputs]`.
#[derive(Clone, Copy, Debug)]
pub struct Linear {
    /// `[outputs, inputs]`.
    pub weight: View,
    /// Where its gradient goes; absent for a frozen weight or a model that is not trained.
    pub gradient: Option<View>,
    /// Columns of `x`.
    pub inputs: usize,
    /// Columns of `y`.
    pub outputs: usize,
}

impl Linear {
    /// `out[rows, outputs] = x[rows, inputs] W^T`.
    pub fn forward<B: Backend>(&self, backend: &mut B, x: View, out: View, rows: usize) {
        backend.matmul(Matmul {
            layout: Layout::Nt,
            a: x,
            b: self.weight,
            c: out,
            m: rows,
            n: self.outputs,
            k: self.inputs,
            accumulate: false,
        });
    }

    /// `dx[rows, inputs] = dout[rows, outputs] W`.
    pub fn backward_input<B: Backend>(&self, backend: &mut B, dout: View, dx: View, rows: usize) {
        backend.matmul(Matmul {
            layout: Layout::Nn,
            a: dout,
            b: self.weight,
            c: dx,
            m: rows,
            n: self.inputs,
            k: self.outputs,
            accumulate: false,
        });
    }

    /// `dW (+)= dout^T x`.
    pub fn backward_weight<B: Backend>(
        &self,
        backend: &mut B,
        x: View,
        dout: View,
        rows: usize,
        accumulate: bool,
    ) {
        let Some(gradient) = self.gradient else { return };
        backend.matmul(Matmul {
            layout: Layout::Tn,
            a: dout,
            b: x,
            c: gradient,
            m: self.outputs,
            n: self.inputs,
            k: rows,
            accumulate,
        });
    }

    /// Both gradients.
    pub fn backward<B: Backend>(
        &self,
        backend: &mut B,
        x: View,
        dout: View,
        dx: View,
        rows: usize,
        accumulate: bool,
    ) {
        self.backward_input(backend, dout, dx, rows);
        self.backward_weight(backend, x, dout, rows, accumulate);
    }
}
