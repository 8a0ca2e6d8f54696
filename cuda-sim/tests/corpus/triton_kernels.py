"""Makes tests/corpus/triton/*.ptx: what Triton 3.5.0 compiles these kernels to for sm_80. No GPU and no torch is needed.

    pip install triton==3.5.0 && TRITON_DISABLE_LINE_INFO=1 python triton_kernels.py triton/

The first line of each file says how much shared memory and how many warps the launch needs.
"""

import pathlib
import re
import sys

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


@triton.jit
def matmul(a, b, c, M, N, K, sa, sb, sc, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    rm = tl.program_id(0) * BM + tl.arange(0, BM)
    rn = tl.program_id(1) * BN + tl.arange(0, BN)
    rk = tl.arange(0, BK)
    acc = tl.zeros((BM, BN), tl.float32)
    for k in range(0, K, BK):
        x = tl.load(a + rm[:, None] * sa + (k + rk)[None, :], mask=(rm[:, None] < M) & ((k + rk)[None, :] < K), other=0.0)
        y = tl.load(b + (k + rk)[:, None] * sb + rn[None, :], mask=(rn[None, :] < N) & ((k + rk)[:, None] < K), other=0.0)
        acc = tl.dot(x, y, acc)
    tl.store(c + rm[:, None] * sc + rn[None, :], acc.to(tl.bfloat16), mask=(rm[:, None] < M) & (rn[None, :] < N))


@triton.jit
def attention(q, k, v, o, scale, T, D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr):
    rm = tl.program_id(0) * BM + tl.arange(0, BM)
    rd = tl.arange(0, D)
    query = tl.load(q + rm[:, None] * D + rd[None, :])
    m = tl.full((BM,), float("-inf"), tl.float32)
    total = tl.zeros((BM,), tl.float32)
    acc = tl.zeros((BM, D), tl.float32)
    for s in range(0, T, BN):
        rn = s + tl.arange(0, BN)
        key = tl.load(k + rn[None, :] * D + rd[:, None])
        value = tl.load(v + rn[:, None] * D + rd[None, :])
        p = tl.dot(query, key) * scale
        p = tl.where(rm[:, None] >= rn[None, :], p, float("-inf"))
        new = tl.maximum(m, tl.max(p, 1))
        e = tl.exp2(p - new[:, None])
        f = tl.exp2(m - new)
        total = total * f + tl.sum(e, 1)
        acc = tl.dot(e.to(value.dtype), value, acc * f[:, None])
        m = new
    tl.store(o + rm[:, None] * D + rd[None, :], (acc / total[:, None]).to(o.dtype.element_ty))


@triton.jit
def rmsnorm(y, x, w, n, eps, B: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, B)
    mask = column < n
    a = tl.load(x + row * n + column, mask=mask, other=0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(a * a, 0) / n + eps)
    weight = tl.load(w + column, mask=mask, other=0).to(tl.float32)
    tl.store(y + row * n + column, (a * scale * weight).to(tl.bfloat16), mask=mask)


@triton.jit
def swiglu(a, b, c, n, B: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * B + tl.arange(0, B)
    mask = i < n
    gate = tl.load(a + i, mask=mask, other=0).to(tl.float32)
    up = tl.load(b + i, mask=mask, other=0).to(tl.float32)
    tl.store(c + i, (gate * tl.sigmoid(gate) * up).to(tl.bfloat16), mask=mask)


HALF, I32, C = "*bf16", "i32", "constexpr"
SIZES = dict(M=I32, N=I32, K=I32, sa=I32, sb=I32, sc=I32, BM=C, BN=C, BK=C)
JOBS = {
    "matmul_bf16": (matmul, dict(a=HALF, b=HALF, c=HALF, **SIZES), dict(BM=64, BN=64, BK=32)),
    "matmul_f32": (matmul, dict(a="*fp32", b="*fp32", c=HALF, **SIZES), dict(BM=32, BN=32, BK=32)),
    "attention": (
        attention,
        dict(q=HALF, k=HALF, v=HALF, o=HALF, scale="fp32", T=I32, D=C, BM=C, BN=C),
        dict(D=64, BM=64, BN=32),
    ),
    "rmsnorm": (rmsnorm, dict(y=HALF, x=HALF, w=HALF, n=I32, eps="fp32", B=C), dict(B=1024)),
    "swiglu": (swiglu, dict(a=HALF, b=HALF, c=HALF, n=I32, B=C), dict(B=1024)),
}

if __name__ == "__main__":
    folder = pathlib.Path(sys.argv[1])
    for name, (function, signature, constants) in JOBS.items():
        source = ASTSource(function, signature, constants)
        kernel = triton.compile(source, target=GPUTarget("cuda", 80, 32), options={"num_warps": 4})
        text = re.sub(r"\t\.section[^{]*\{.*?\n\t\}\n", "", kernel.asm["ptx"], flags=re.S)
        text = re.sub(r"\t\.file[^\n]*\n|[ \t]*//[^\n]*", "", text)
        text = re.sub(r"\n\s*\n+", "\n", text).strip()
        head = f"// Made by tests/corpus/triton_kernels.py. shared {kernel.metadata.shared} warps {kernel.metadata.num_warps}\n"
        (folder / f"{name}.ptx").write_text(head + text + "\n")
