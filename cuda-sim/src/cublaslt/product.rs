//! A product as the descriptors ask for it, checked and brought into one form.
//!
//! The one form: every matrix has a step along its rows and one along its columns, and the steps of D along its rows
//! are 1. A row-major D is brought there by computing its transpose, with the operands exchanged.

use super::descriptor::{Descriptor, DescriptorHandle, Kind, attribute, find};
use super::element::{Element, Rounding};
use super::status::{Outcome, Status};
use crate::driver::state::say;

/// A matrix in device memory: element `[i, j]` of batch `b` is at `i * row_step + j * column_step + b * batch_step`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Matrix {
    pub(super) element: Element,
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) row_step: usize,
    pub(super) column_step: usize,
    batch_step: i64,
    batches: usize,
    row_major: bool,
}

/// What is added to D's columns (or to its rows, in a product whose operands were exchanged).
#[derive(Clone, Copy, Debug)]
pub(super) struct Bias {
    pub(super) address: u64,
    pub(super) element: Element,
    pub(super) batch_step: i64,
    pub(super) along_rows: bool,
}

/// `D = alpha * A * B + beta * C`, with an epilogue.
#[derive(Clone, Debug)]
pub(super) struct Product {
    pub(super) a: Matrix,
    pub(super) b: Matrix,
    pub(super) c: Matrix,
    pub(super) d: Matrix,
    pub(super) batches: usize,
    pub(super) rounding: Rounding,
    pub(super) bias: Option<Bias>,
    pub(super) relu: bool,
    /// Whether alpha and beta lie in device memory.
    pub(super) device_scalars: bool,
    /// Whether the caller's A is `b` here, to give D row by row.
    pub(super) exchanged: bool,
}

/// The handles that every call about a product takes.
#[derive(Clone, Copy)]
pub(super) struct Handles {
    pub(super) operation: DescriptorHandle,
    pub(super) a: DescriptorHandle,
    pub(super) b: DescriptorHandle,
    pub(super) c: DescriptorHandle,
    pub(super) d: DescriptorHandle,
}

/// Says what is wrong: a status alone names no matrix.
fn refuse<T>(status: Status, message: &str) -> Outcome<T> {
    say(&format!("cublasLtMatmul: {message}"));
    Err(status)
}

impl Matrix {
    fn new(name: &str, layout: &Descriptor) -> Outcome<Matrix> {
        use attribute::*;
        let Some(element) = Element::from_number(layout.get(LAYOUT_TYPE) as u32) else {
            let number = layout.get(LAYOUT_TYPE);
            return refuse(
                Status::NOT_SUPPORTED,
                &format!("{name} has cudaDataType {number}; f32, f16 and bf16 are implemented"),
            );
        };
        let size = |attribute| usize::try_from(layout.get(attribute)).ok().filter(|&size| size > 0);
        let (Some(rows), Some(columns), Some(leading), Some(batches)) =
            (size(LAYOUT_ROWS), size(LAYOUT_COLUMNS), size(LAYOUT_LEADING), size(LAYOUT_BATCH_COUNT))
        else {
            return refuse(Status::INVALID_VALUE, &format!("a size of {name} is not positive: {layout:?}"));
        };
        let (row_step, column_step, run) = match layout.get(LAYOUT_ORDER) {
            0 => (1, leading, rows),
            1 => (leading, 1, columns),
            order => {
                return refuse(
                    Status::NOT_SUPPORTED,
                    &format!("{name} has order {order}; column and row are implemented"),
                );
            }
        };
        if leading < run {
            return refuse(
                Status::INVALID_VALUE,
                &format!("{name} has a leading dimension of {leading}, below {run}"),
            );
        }
        if layout.get(LAYOUT_PLANE_OFFSET) != 0 {
            return refuse(Status::NOT_SUPPORTED, &format!("{name} is a complex matrix in planes"));
        }
        let batch_step = layout.get(LAYOUT_BATCH_STRIDE);
        let row_major = layout.get(LAYOUT_ORDER) == 1;
        Ok(Matrix { element, rows, columns, row_step, column_step, batch_step, batches, row_major })
    }

    pub(super) fn transposed(self) -> Matrix {
        Matrix {
            rows: self.columns,
            columns: self.rows,
            row_step: self.column_step,
            column_step: self.row_step,
            ..self
        }
    }

    fn operated(self, name: &str, operation: i64) -> Outcome<Matrix> {
        match operation {
            0 => Ok(self),
            // The conjugate transpose of a real matrix is its transpose.
            1 | 2 => Ok(self.transposed()),
            _ => refuse(Status::INVALID_VALUE, &format!("{name} has the unknown operation {operation}")),
        }
    }

    /// Its runs of elements that lie side by side: the length of one, the step from one to the next, how many.
    pub(super) fn runs(&self) -> (usize, usize, usize) {
        if self.row_step == 1 {
            (self.rows, self.column_step, self.columns)
        } else {
            (self.columns, self.row_step, self.rows)
        }
    }

    /// The same matrix without gaps between its runs.
    pub(super) fn packed(self) -> Matrix {
        if self.row_step == 1 {
            Matrix { column_step: self.rows, ..self }
        } else {
            Matrix { row_step: self.columns, ..self }
        }
    }

    /// Bytes from the first element to the end of the last, of one batch.
    pub(super) fn extent(&self) -> u64 {
        let last = (self.rows - 1) as u64 * self.row_step as u64
            + (self.columns - 1) as u64 * self.column_step as u64;
        (last + 1) * self.element.bytes() as u64
    }

    /// The address of a batch.
    pub(super) fn batch(&self, address: u64, batch: usize) -> u64 {
        address.wrapping_add_signed(self.batch_step.wrapping_mul(batch as i64 * self.element.bytes() as i64))
    }

    /// Where `[row, column]` is, from the address of its batch.
    pub(super) fn at(&self, address: u64, row: usize, column: usize) -> u64 {
        address + (row * self.row_step + column * self.column_step) as u64 * self.element.bytes() as u64
    }
}

/// What a compute type does to the operands.
///
/// The fast types allow tensor cores, and those need columns that start at multiples of 16 bytes: other matrices are
/// multiplied as they are.
fn rounding(compute: i64, a: &Matrix, b: &Matrix) -> Outcome<Rounding> {
    let element = a.element;
    let aligned = |matrix: &Matrix| (matrix.runs().1 * matrix.element.bytes()).is_multiple_of(16);
    match (compute, element) {
        (74 | 75 | 77, Element::F32) if !(aligned(a) && aligned(b)) => Ok(Rounding::Exact),
        // CUBLAS_COMPUTE_32F and its pedantic form
        (68 | 69, _) => Ok(Rounding::Exact),
        (74, Element::F32) => Ok(Rounding::F16),
        (75, Element::F32) => Ok(Rounding::Bf16),
        (77, Element::F32) => Ok(Rounding::Tf32),
        _ => refuse(
            Status::NOT_SUPPORTED,
            &format!(
                "compute type {compute} with {} operands; f32 accumulation is implemented",
                element.name()
            ),
        ),
    }
}

impl Product {
    /// Checks what the descriptors ask for.
    ///
    /// # Errors
    /// `INVALID_VALUE` for what makes no product, `NOT_SUPPORTED` for what this library does not compute; the reason goes
    /// to stderr.
    pub(super) fn new(handles: Handles) -> Outcome<Product> {
        use attribute::*;
        let operation = find(handles.operation, Kind::Matmul)?;
        let layout = |name, handle| Matrix::new(name, &find(handle, Kind::Layout)?);
        let a = layout("A", handles.a)?.operated("A", operation.get(MATMUL_TRANSPOSE_A))?;
        let b = layout("B", handles.b)?.operated("B", operation.get(MATMUL_TRANSPOSE_B))?;
        let (c, d) = (layout("C", handles.c)?, layout("D", handles.d)?);
        check_shapes([a, b, c, d])?;
        check_types([a, b, c, d], &operation)?;
        let product = Product {
            a,
            b,
            c,
            d,
            batches: d.batches,
            rounding: rounding(operation.get(MATMUL_COMPUTE_TYPE), &a, &b)?,
            bias: bias(&operation, d)?,
            relu: matches!(operation.get(MATMUL_EPILOGUE), 2 | 6),
            device_scalars: operation.get(MATMUL_POINTER_MODE) == 1,
            exchanged: false,
        };
        Ok(if d.row_major { product.exchanged() } else { product })
    }

    /// The same product of the transposed matrices.
    fn exchanged(self) -> Product {
        Product {
            a: self.b.transposed(),
            b: self.a.transposed(),
            c: self.c.transposed(),
            d: self.d.transposed(),
            bias: self.bias.map(|bias| Bias { along_rows: false, ..bias }),
            exchanged: true,
            ..self
        }
    }
}

fn check_shapes([a, b, c, d]: [Matrix; 4]) -> Outcome {
    if a.columns != b.rows
        || (a.rows, b.columns) != (d.rows, d.columns)
        || (c.rows, c.columns) != (d.rows, d.columns)
    {
        let size = |matrix: Matrix| format!("{}x{}", matrix.rows, matrix.columns);
        let message = format!("{} * {} + {} does not give {}", size(a), size(b), size(c), size(d));
        return refuse(Status::INVALID_VALUE, &message);
    }
    if [a, b, c].iter().any(|matrix| matrix.batches != d.batches) {
        let counts = [a, b, c, d].map(|matrix| matrix.batches);
        return refuse(Status::INVALID_VALUE, &format!("A, B, C and D have {counts:?} batches"));
    }
    if c.row_major != d.row_major {
        return refuse(Status::NOT_SUPPORTED, "C and D differ in their order");
    }
    if d.batches > 1 && d.batch_step == 0 {
        return refuse(Status::INVALID_VALUE, "the batches of D are one and the same");
    }
    Ok(())
}

fn check_types([a, b, c, d]: [Matrix; 4], operation: &Descriptor) -> Outcome {
    use attribute::*;
    let results = [Element::F32, a.element];
    if a.element != b.element || c.element != d.element || !results.contains(&d.element) {
        let names = [a, b, c, d].map(|matrix| matrix.element.name());
        let message =
            format!("A, B, C, D of {names:?}: A and B must agree, C and D too, and D is of A's type or f32");
        return refuse(Status::NOT_SUPPORTED, &message);
    }
    if operation.get(MATMUL_SCALE_TYPE) != 0 {
        return refuse(Status::NOT_SUPPORTED, "alpha and beta are implemented in f32 only");
    }
    if operation.get(MATMUL_TRANSPOSE_C) != 0 {
        return refuse(Status::NOT_SUPPORTED, "C cannot be transposed");
    }
    if !(0..=1).contains(&operation.get(MATMUL_POINTER_MODE)) {
        return refuse(
            Status::NOT_SUPPORTED,
            "alpha and beta are one number each, on the host or on the device",
        );
    }
    if operation.get(MATMUL_FILL_MODE) != 2 {
        return refuse(Status::NOT_SUPPORTED, "only full matrices are implemented");
    }
    Ok(())
}

fn bias(operation: &Descriptor, d: Matrix) -> Outcome<Option<Bias>> {
    use attribute::*;
    // CUBLASLT_EPILOGUE_DEFAULT, _RELU, _BIAS, _RELU_BIAS
    match operation.get(MATMUL_EPILOGUE) {
        1 | 2 => return Ok(None),
        4 | 6 => {}
        epilogue => {
            let message = format!("epilogue {epilogue}; none, ReLU, bias and both are implemented");
            return refuse(Status::NOT_SUPPORTED, &message);
        }
    }
    let address = operation.get(MATMUL_BIAS_POINTER) as u64;
    if address == 0 {
        return refuse(Status::INVALID_VALUE, "a bias epilogue without a bias");
    }
    let element = match operation.get(MATMUL_BIAS_TYPE) {
        -1 => Some(d.element),
        number => Element::from_number(number as u32),
    };
    let Some(element) = element else { return refuse(Status::NOT_SUPPORTED, "a bias of an unknown type") };
    let batch_step = operation.get(MATMUL_BIAS_BATCH_STRIDE);
    Ok(Some(Bias { address, element, batch_step, along_rows: true }))
}
