"""Runs kernels that nobody here wrote under cuda-sim, through the driver's C functions, and compares them with numpy in f64.

Liger's own rmsnorm and swiglu (forward and backward), a matrix product and a flash attention, compiled by Triton. Needs no GPU:

    python3 -m venv venv && venv/bin/pip install torch==2.15.0 triton==3.9.0 numpy==2.4.6
    venv/bin/pip install --no-deps liger-kernel==0.8.5
    cargo build -p cuda-sim
    CUDA_SIM_ASYNC=issue venv/bin/python cuda-sim/tests/corpus/triton_numpy.py target/debug/cuda-sim/libcuda.so

prints a line per kernel: the largest error, and the largest error in units of what the kernel may be wrong by (below each
comparison), which must stay under 1. Any finding of cuda-sim's checks fails the launch and so the script. With a folder as second
argument it also writes there the instruction forms of what it ran (`instruction_forms.py`); that is how `liger.txt`,
`matmul.txt` and `attention.txt` were made. Liger's sources and PTX are not kept here.

Products and attention are compiled for sm_80 only: for sm_90 Triton uses `wgmma` and `mbarrier`, which cuda-sim refuses by name.
"""

import ctypes
import pathlib
import sys

import numpy as np
import triton
from liger_kernel.ops import rms_norm, swiglu
from liger_kernel.ops.utils import calculate_settings
from triton import language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

import triton_kernels
from instruction_forms import instruction_forms

U64 = ctypes.c_uint64
TYPES = {"fp32": np.float32, "fp16": np.float16, "bf16": None}
# Relative error of one rounding to the type.
ROUNDING = {"fp32": 2.0**-24, "fp16": 2.0**-11, "bf16": 2.0**-8, "tf32": 2.0**-11}


class Driver:
    """The few functions of the CUDA driver that a launch takes."""

    def __init__(self, path):
        self.library = ctypes.CDLL(path)
        self.call("cuInit", 0)
        device, context = ctypes.c_int(), ctypes.c_void_p()
        self.call("cuDeviceGet", ctypes.byref(device), 0)
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self.call("cuCtxSetCurrent", context)
        name = ctypes.create_string_buffer(64)
        self.call("cuDeviceGetName", name, 64, device)
        assert name.value == b"cuda-sim", name.value

    def call(self, function, *arguments):
        status = getattr(self.library, function)(*arguments)
        if status != 0:
            raise SystemExit(f"{function} failed with {status}")

    def function(self, ptx, name, shared):
        module, function = ctypes.c_void_p(), ctypes.c_void_p()
        self.call("cuModuleLoadData", ctypes.byref(module), ptx.encode() + b"\0")
        self.call("cuModuleGetFunction", ctypes.byref(function), module, name.encode())
        if shared > 48 * 1024:
            self.call("cuFuncSetAttribute", function, 8, shared)  # MAX_DYNAMIC_SHARED_SIZE_BYTES
        return function

    def room(self, size):
        address = U64()
        self.call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size))
        return address.value

    def upload(self, array):
        address = self.room(array.nbytes)
        self.call("cuMemcpyHtoD_v2", U64(address), ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes))
        return address

    def download(self, address, array):
        self.call("cuMemcpyDtoH_v2", ctypes.c_void_p(array.ctypes.data), U64(address), ctypes.c_size_t(array.nbytes))
        return array

    def launch(self, function, grid, warps, shared, values):
        pointers = (ctypes.c_void_p * len(values))(*[ctypes.addressof(value) for value in values])
        x, y, z = (*grid, 1, 1)[:3]
        self.call("cuLaunchKernel", function, x, y, z, 32 * warps, 1, 1, shared, None, pointers, None)
        self.call("cuCtxSynchronize")


def encode(values, kind):
    """f64 values in the storage of `kind`."""
    if kind != "bf16":
        return values.astype(TYPES[kind])
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def decode(stored, kind):
    if kind != "bf16":
        return stored.astype(np.float64)
    return (stored.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


class Tensor:
    """An array on the device and its values in f64, as they are after rounding to the type."""

    def __init__(self, driver, kind, values=None, shape=None):
        self.driver, self.kind = driver, kind
        if values is None:
            self.stored = np.zeros(shape, np.uint16 if kind == "bf16" else TYPES[kind])
            self.address = driver.room(self.stored.nbytes)  # left uninitialised: the kernel must write all of it
        else:
            self.stored = np.ascontiguousarray(encode(values, kind))
            self.address = driver.upload(self.stored)
        self.values = decode(self.stored, kind)

    def now(self):
        return decode(self.driver.download(self.address, np.empty_like(self.stored)), self.kind)


class Runner:
    def __init__(self, driver):
        self.driver, self.forms, self.worst = driver, {}, 0.0

    def run(self, family, kernel, target, grid, arguments, warps, stages=3):
        """Compiles as Triton's own launcher would specialise these arguments, and launches. Constants are `Constant`s."""
        signature, constants, attributes, values = {}, {}, {}, []
        for index, name in enumerate(kernel.arg_names):
            value = arguments[name]
            if isinstance(value, Constant) or (isinstance(value, int) and value == 1):
                signature[name] = "constexpr"
                constants[(index,)] = value.value if isinstance(value, Constant) else 1
                continue
            aligned = [["tt.divisibility", 16]]
            if isinstance(value, Tensor):
                signature[name] = "*" + value.kind
                attributes[(index,)] = aligned
                values.append(U64(value.address))
            elif isinstance(value, int):
                signature[name] = "i32"
                if value % 16 == 0:
                    attributes[(index,)] = aligned
                values.append(ctypes.c_int32(value))
            else:
                signature[name] = "fp32"
                values.append(ctypes.c_float(value))
        source = ASTSource(kernel, signature, constants, attributes)
        options = {"num_warps": warps, "num_stages": stages}
        compiled = triton.compile(source, target=GPUTarget("cuda", target, 32), options=options)
        ptx, metadata = compiled.asm["ptx"], compiled.metadata
        self.forms.setdefault(family, set()).update(instruction_forms(ptx))
        function = self.driver.function(ptx, metadata.name, metadata.shared)
        # Triton's scratch memory, which these kernels do not use.
        head = ptx[ptx.index(".entry") :]
        values += [U64(0)] * (head[: head.index(")")].count(".param") - len(values))
        self.driver.launch(function, grid, metadata.num_warps, metadata.shared, values)

    def compare(self, what, got, expected, allowed):
        error, allowed = np.abs(got - expected), allowed + 1e-30
        assert np.isfinite(got).all(), what
        units = float((error / allowed).max())
        print(f"{what:62} largest error {error.max():9.3g}, {units:5.2f} of what is allowed", flush=True)
        self.worst = max(self.worst, units)


class Constant:
    def __init__(self, value):
        self.value = value


def rmsnorm(runner, kind, target, mode, rows, n, random):
    """Liger's forward and backward, `llama` and `gemma` casting."""
    driver, casting = runner.driver, {"llama": 0, "gemma": 1}[mode]
    offset, eps = (0.0, 1e-6) if mode == "llama" else (1.0, 1e-6)
    x, w, dy = (Tensor(driver, kind, random.standard_normal(shape)) for shape in [(rows, n), n, (rows, n)])
    y, rstd = Tensor(driver, kind, shape=(rows, n)), Tensor(driver, "fp32", shape=rows)
    block, warps = calculate_settings(n)
    common = dict(
        X_ptr=x, X_row_stride=n, W_ptr=w, W_row_stride=1, RSTD_ptr=rstd, RSTD_row_stride=1, n_cols=n, offset=offset,
        casting_mode=Constant(casting), elementwise_affine=Constant(True), BLOCK_SIZE=Constant(block),
    )  # fmt: skip
    label = f"rmsnorm {mode} {kind} sm_{target} {rows}x{n}"
    kernel = rms_norm._rms_norm_forward_kernel
    runner.run("liger", kernel, target, (rows,), dict(common, Y_ptr=y, Y_row_stride=n, eps=eps), warps)
    scale = 1 / np.sqrt((x.values**2).mean(1, keepdims=True) + eps)
    weight = w.values + offset
    expected = x.values * scale * weight
    # The sum over a row is a tree (log2 n roundings and a few more, in f32); `llama` rounds x * rstd to the type and then
    # the product, `gemma` the product alone.
    f32 = (np.log2(block) + 8) * ROUNDING["fp32"]
    roundings = 2 if mode == "llama" else 1
    runner.compare(label + " forward", y.now(), expected, (roundings * ROUNDING[kind] * 1.01 + f32) * np.abs(expected))
    runner.compare(label + " rstd", rstd.now(), scale[:, 0], f32 * scale[:, 0])

    programs = 3
    dx, dw = Tensor(driver, kind, shape=(rows, n)), Tensor(driver, "fp32", shape=(programs, n))
    types = {"fp32": tl.float32, "bf16": tl.bfloat16}
    backward = dict(
        common, dY_ptr=dy, dY_row_stride=n, dX_ptr=dx, dX_row_stride=n, X_dtype=Constant(types[kind]), dW_ptr=dw,
        dW_row_stride=n, n_rows=rows, rows_per_program=-(-rows // programs), COMPUTE_DW=Constant(True),
    )  # fmt: skip
    runner.run("liger", rms_norm._rms_norm_backward_kernel, target, (programs,), backward, warps)
    normal = x.values * scale
    m = dy.values * weight
    dot = (m * x.values).sum(1, keepdims=True)
    expected = scale * m - scale**3 / n * dot * x.values
    # The dot product's error is relative to the sum of its terms' magnitudes. The result is rounded once.
    size = scale * np.abs(m) + scale**3 / n * np.abs(m * x.values).sum(1, keepdims=True) * np.abs(x.values)
    runner.compare(label + " dx", dx.now(), expected, ROUNDING[kind] * 1.01 * np.abs(expected) + f32 * size)
    # `llama` rounds x * rstd to the type before it meets dy, and their product is rounded to the type too.
    magnitude = np.abs(dy.values * normal)
    allowed = (2 * ROUNDING[kind] * 1.01 if mode == "llama" else 0) + (rows + 8) * ROUNDING["fp32"] + f32
    runner.compare(label + " dw", dw.now().sum(0), (dy.values * normal).sum(0), allowed * magnitude.sum(0))


def gated(runner, kind, target, rows, n, random):
    """Liger's swiglu, forward and backward; the backward pass overwrites its inputs."""
    driver, multiplier = runner.driver, 1.5
    a, b, dc = (Tensor(driver, kind, random.standard_normal((rows, n)) * s) for s in (4, 1, 1))
    c = Tensor(driver, kind, shape=(rows, n))
    block, warps = calculate_settings(n)
    common = dict(stride=n, gate_multiplier=multiplier, n_cols=Constant(n), BLOCK_SIZE=Constant(block))
    label = f"swiglu {kind} sm_{target} {rows}x{n}"
    runner.run("liger", swiglu._swiglu_forward_kernel, target, (rows,), dict(common, a_ptr=a, b_ptr=b, c_ptr=c), warps)
    gate = a.values * multiplier
    sigmoid = 1 / (1 + np.exp(-gate))
    silu = gate * sigmoid
    # silu is rounded to the type, and so is the product. In f32, exp(-x) has an error that grows with |x|.
    f32 = (16 + 2 * np.abs(gate)) * ROUNDING["fp32"]
    expected = silu * b.values
    runner.compare(label + " forward", c.now(), expected, (2 * ROUNDING[kind] * 1.01 + f32) * np.abs(expected))
    arguments = dict(common, dc_ptr=dc, a_ptr=a, b_ptr=b)
    runner.run("liger", swiglu._swiglu_backward_kernel, target, (rows,), arguments, warps)
    db = dc.values * silu
    runner.compare(label + " db", b.now(), db, (ROUNDING[kind] * 1.01 + f32) * np.abs(db))
    da = dc.values * (silu * (1 - sigmoid) + sigmoid) * b.values * multiplier
    # Where silu (1 - sigmoid) and sigmoid cancel, the error is relative to the terms; 1 - sigmoid loses its own size's rounding.
    terms = np.abs(dc.values * b.values * multiplier) * (np.abs(silu) + sigmoid)
    runner.compare(label + " da", a.now(), da, ROUNDING[kind] * 1.01 * np.abs(da) + f32 * terms)


def product(runner, kind, shape, tiles, random, stages):
    """A plain matrix product for tensor cores, operands copied asynchronously. f32 operands are multiplied as tf32."""
    m, n, k = shape
    a, b = (Tensor(runner.driver, kind, random.standard_normal(shape)) for shape in [(m, k), (k, n)])
    c = Tensor(runner.driver, "bf16", shape=(m, n))
    bm, bn, bk = tiles
    arguments = dict(a=a, b=b, c=c, M=m, N=n, K=k, sa=k, sb=n, sc=n, BM=Constant(bm), BN=Constant(bn), BK=Constant(bk))
    grid = (-(-m // bm), -(-n // bn))
    runner.run("matmul", triton_kernels.matmul, 80, grid, arguments, 4, stages)
    expected = a.values @ b.values
    # One rounding of the result; k additions in f32, in any order; tf32 operands are rounded each.
    operands = 2 * ROUNDING["tf32"] * 1.01 if kind == "fp32" else 0
    allowed = ROUNDING["bf16"] * 1.01 * np.abs(expected)
    allowed += (operands + k * ROUNDING["fp32"]) * (np.abs(a.values) @ np.abs(b.values))
    runner.compare(f"matmul {kind} sm_80 {m}x{n}x{k}, {stages} stages", c.now(), expected, allowed)


def flash(runner, kind, t, d, random, stages):
    """Causal attention in one pass over the keys."""
    q, k, v = (Tensor(runner.driver, kind, random.standard_normal((t, d))) for _ in range(3))
    o = Tensor(runner.driver, kind, shape=(t, d))
    scale = float(np.float32(d**-0.5 * np.log2(np.e)))
    arguments = dict(q=q, k=k, v=v, o=o, scale=scale, T=t, D=Constant(d), BM=Constant(64), BN=Constant(32))
    runner.run("attention", triton_kernels.attention, 80, (t // 64,), arguments, 4, stages)
    scores = np.where(np.tri(t, dtype=bool), q.values @ k.values.T * scale, -np.inf)
    weights = np.exp2(scores - scores.max(1, keepdims=True))
    weights /= weights.sum(1, keepdims=True)
    expected = weights @ v.values
    # The weights are rounded to the type, once, before they meet the values; the result once more. An error of a score in f32
    # is one of its weight: d additions of products, times log 2.
    sums = (np.abs(q.values) @ np.abs(k.values.T)).max() * scale * d * ROUNDING["fp32"] + 32 * ROUNDING["fp32"]
    allowed = ROUNDING[kind] * 1.01 * (np.abs(expected) + weights @ np.abs(v.values)) + 2 * sums * (weights @ np.abs(v.values))
    runner.compare(f"attention {kind} sm_80 {t}x{d}, {stages} stages", o.now(), expected, allowed)


def main():
    runner = Runner(Driver(sys.argv[1]))
    random = np.random.default_rng(20240917)
    for target in (80, 90):
        for kind in ("fp32", "bf16"):
            for rows, n in ((7, 1000), (5, 2048)):
                for mode in ("llama", "gemma"):
                    rmsnorm(runner, kind, target, mode, rows, n, random)
                gated(runner, kind, target, rows, n, random)
    for kind, tiles in (("bf16", (64, 64, 32)), ("fp16", (128, 64, 32)), ("fp32", (32, 32, 32))):
        for shape in ((128, 128, 256), (100, 72, 48)):
            for stages in (1, 3):
                product(runner, kind, shape, tiles, random, stages)
    for kind in ("bf16", "fp16"):
        for stages in (1, 3):
            flash(runner, kind, 256, 64, random, stages)
    for family, forms in runner.forms.items() if len(sys.argv) > 2 else ():
        (pathlib.Path(sys.argv[2]) / f"{family}.txt").write_text("\n".join(sorted(forms)) + "\n")
    print(f"the largest error is {runner.worst:.2f} of what is allowed")
    if runner.worst > 1:
        raise SystemExit("an error is larger than what is allowed")


if __name__ == "__main__":
    main()
