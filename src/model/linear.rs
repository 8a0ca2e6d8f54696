//! A linear layer: what the model multiplies by. Without a gradient view there is no weight-gradient product, and where some
//! rows of the weight are frozen, none over those.

use std::ops::Range;

use crate::backend::{Backend, Layout, Matmul, View};

/// Rows of a weight from the first of a frozen part to its last: three weights in one product leave two runs between them.
const MOST_RUNS: usize = 2;

/// `y = x W^T`, `W [outputs, inputs]`.
#[derive(Clone, Copy, Debug)]
pub struct Linear {
    /// `[outputs, inputs]`.
    pub weight: View,
    /// Where its gradient goes; absent for a model that is not trained.
    pub gradient: Option<View>,
    /// Columns of `x`.
    pub inputs: usize,
    /// Columns of `y`.
    pub outputs: usize,
    learnt: [Rows; MOST_RUNS],
}

/// A run of rows of a weight; of none where it is not needed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Rows {
    start: usize,
    len: usize,
}

impl Linear {
    /// A layer that learns all of its weight, if anything.
    pub fn new(weight: View, gradient: Option<View>, inputs: usize, outputs: usize) -> Self {
        let all = Rows { start: 0, len: outputs };
        Self { weight, gradient, inputs, outputs, learnt: [all, Rows::default()] }
    }

    /// Learns these rows of the weight and no others, ascending runs that neither touch nor overlap.
    ///
    /// # Panics
    /// If there are more runs than the parts of one product can leave.
    pub fn learn(&mut self, rows: impl IntoIterator<Item = Range<usize>>) {
        self.learnt = [Rows::default(); MOST_RUNS];
        for (place, rows) in rows.into_iter().enumerate() {
            self.learnt[place] = Rows { start: rows.start, len: rows.len() };
        }
    }

    /// `out[rows, outputs] = x[rows, inputs] W^T`.
    pub fn forward<B: Backend>(&self, backend: &mut B, x: View, out: View, rows: usize) {
        backend.matmul(Matmul {
            layout: Layout::Nt,
            a: x,
            a_stride: self.inputs,
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
            a_stride: self.outputs,
            b: self.weight,
            c: dx,
            m: rows,
            n: self.inputs,
            k: self.outputs,
            accumulate: false,
        });
    }

    /// `dW (+)= dout^T x`, for the rows of W that are learnt.
    pub fn backward_weight<B: Backend>(
        &self,
        backend: &mut B,
        x: View,
        dout: View,
        rows: usize,
        accumulate: bool,
    ) {
        let Some(gradient) = self.gradient else { return };
        for Rows { start, len } in self.learnt.into_iter().filter(|run| run.len > 0) {
            // Columns start..start + len of dout, from the first row's to the last row's.
            let end = rows.saturating_sub(1) * self.outputs + start + len;
            backend.matmul(Matmul {
                layout: Layout::Tn,
                a: dout.slice(start.min(dout.len)..end.min(dout.len)),
                a_stride: self.outputs,
                b: x,
                c: gradient.rows(start..start + len, self.inputs),
                m: len,
                n: self.inputs,
                k: rows,
                accumulate,
            });
        }
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
