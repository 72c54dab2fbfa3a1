"""The native kernels against the torch functions, which are their specification, and their derivatives.

The kernels are compiled once, into the cache folder. The CUDA kernels are also run without a device: compiled as
C++, with the threads of a block as coroutines.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from backbones.stylegan.ops import dispatch, make_filter, native
from backbones.stylegan.ops.native import build
from unified.errors import UserError

HAS_COMPILER = any(map(shutil.which, ("g++", "c++", "clang++"))) and shutil.which("ninja") is not None
pytestmark = pytest.mark.skipif(not HAS_COMPILER, reason="no C++ compiler or no ninja to build the kernels with")
quick = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture(scope="module", autouse=True)
def _kernels() -> Iterator[None]:
    with native.disabled():
        native.load("cpu", jobs=1)
        yield


def both(run, *args, **keywords) -> tuple[Tensor, Tensor]:
    """The native result and that of torch."""
    got = run(*args, **keywords)
    with native.disabled():
        return got, run(*args, **keywords)


def close(got: Tensor, want: Tensor, tolerance: float = 1e-5) -> None:
    assert got.shape == want.shape
    torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance * max(1.0, float(_largest(want))))


def _largest(x: Tensor) -> Tensor:
    return x.detach().abs().max() if x.numel() else torch.zeros(())


LAYOUTS = ("contiguous", "channels_last", "crop", "every second", "transposed", "expanded")


def picture(shape: tuple[int, int, int, int], layout: str, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Normal values [N, C, H, W] in the given layout."""
    generator = torch.Generator().manual_seed(seed)
    n, c, h, w = shape
    if layout == "crop":
        return torch.randn(n, c, h + 2, w + 3, generator=generator, dtype=dtype)[:, :, 1:-1, 2:-1]
    if layout == "every second":
        return torch.randn(n, 2 * c, h, 2 * w, generator=generator, dtype=dtype)[:, ::2, :, ::2]
    if layout == "transposed":
        return torch.randn(n, c, w, h, generator=generator, dtype=dtype).transpose(2, 3)
    if layout == "expanded":
        return torch.randn(n, 1, h, w, generator=generator, dtype=dtype).expand(n, c, h, w)
    x = torch.randn(shape, generator=generator, dtype=dtype)
    return x.contiguous(memory_format=torch.channels_last) if layout == "channels_last" else x


shapes = st.tuples(st.integers(0, 3), st.integers(1, 19), st.integers(1, 12), st.integers(1, 20))
layouts = st.sampled_from(LAYOUTS)
seeds = st.integers(0, 1000)


@quick
@given(
    shape=shapes,
    layout=layouts,
    taps=st.tuples(st.integers(1, 13), st.integers(1, 6)),
    up=st.integers(1, 4),
    down=st.integers(1, 4),
    padding=st.tuples(*[st.integers(-3, 9)] * 4),
    flip=st.booleans(),
    product=st.booleans(),
    seed=seeds,
)
def test_upfirdn2d(shape, layout, taps, up, down, padding, flip, product, seed):
    left, right, top, bottom = padding
    if shape[2] * up + top + bottom < taps[0] or shape[3] * up + left + right < taps[1]:
        return
    if min(shape[2] + min(top, 0) + min(bottom, 0), shape[3] + min(left, 0) + min(right, 0)) < 1:
        return  # torch's padding takes no crop beyond the picture
    x = picture(shape, layout, seed)
    filter = torch.randn(taps)
    if product:
        filter = torch.outer(filter[:, 0], filter[0])
    filter = filter / filter.abs().sum()
    settings = {"up": up, "down": down, "padding": padding, "flip_filter": flip, "gain": 1.5}
    close(*both(dispatch.upfirdn2d, x, filter, **settings))


@quick
@given(
    shape=shapes,
    layout=layouts,
    clamp=st.sampled_from([None, 0.7]),
    noise=st.sampled_from(["none", "map", "one", "each"]),
    scaled=st.booleans(),
    biased=st.booleans(),
    seed=seeds,
)
def test_modulated_epilogue_and_its_gradients(shape, layout, clamp, noise, scaled, biased, seed):
    n, c, h, w = shape
    x = picture(shape, layout, seed).detach().requires_grad_()
    scale = torch.rand(n, c).add(0.3).requires_grad_() if scaled else None
    bias = torch.randn(c).requires_grad_() if biased else None
    sizes = {"map": (h, w), "one": (1, 1, h, w), "each": (n, 1, h, w)}
    maps = torch.randn(sizes[noise]).requires_grad_() if noise != "none" else None
    strength = torch.tensor(0.4, requires_grad=True)

    def run(x: Tensor) -> Tensor:
        return dispatch.modulated_epilogue(x, scale, noise=maps, strength=strength, bias=bias, clamp=clamp)

    got, want = both(run, x)
    close(got, want)
    weights = torch.randn(shape)
    leaves = [leaf for leaf in (x, scale, bias, maps) if leaf is not None] + ([strength] if maps is not None else [])
    for mine, theirs in zip(
        torch.autograd.grad((got * weights).sum(), leaves),
        torch.autograd.grad((want * weights).sum(), leaves),
        strict=True,
    ):
        close(mine, theirs)


@quick
@given(
    shape=st.lists(st.integers(0, 9), min_size=2, max_size=5),
    dim=st.integers(0, 4),
    act=st.sampled_from(["linear", "lrelu"]),
    gain=st.sampled_from([None, 0.5]),
    clamp=st.sampled_from([None, 0.5]),
    biased=st.booleans(),
)
def test_bias_act(shape, dim, act, gain, clamp, biased):
    dim = dim % len(shape)
    x = torch.randn(shape)
    bias = torch.randn(shape[dim]) if biased else None
    close(*both(dispatch.bias_act, x, bias, dim=dim, act=act, gain=gain, clamp=clamp))


@quick
@given(
    shape=st.tuples(st.integers(0, 2), st.integers(1, 19), st.integers(4, 12), st.integers(4, 20)),
    layout=layouts,
    taps=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    radial=st.booleans(),
    up=st.integers(1, 4),
    down=st.integers(1, 4),
    padding=st.tuples(*[st.integers(-1, 12)] * 4),
    clamp=st.sampled_from([None, 0.5]),
    seed=seeds,
)
def test_filtered_lrelu_and_its_gradients(shape, layout, taps, radial, up, down, padding, clamp, seed):
    left, right, top, bottom = padding
    high = shape[2] * up + top + bottom - taps[0] + 1, shape[3] * up + left + right - taps[0] + 1
    if min(high) < taps[1]:
        return
    x = picture(shape, layout, seed).detach().requires_grad_()
    bias = torch.randn(shape[1]).requires_grad_()
    first = torch.randn(taps[0])
    second = torch.randn(taps[1], taps[1]) if radial else torch.randn(taps[1])
    first, second = first / first.abs().sum(), second / second.abs().sum()
    settings = {"up": up, "down": down, "padding": padding, "clamp": clamp}
    got, want = both(dispatch.filtered_lrelu, x, first, second, bias, **settings)
    close(got, want)
    weights = torch.randn(want.shape)
    for mine, theirs in zip(
        torch.autograd.grad((got * weights).sum(), (x, bias)),
        torch.autograd.grad((want * weights).sum(), (x, bias)),
        strict=True,
    ):
        # A value that rounding moves across the kink at zero changes the gradient by (1 - slope) there.
        close(mine, theirs, 1e-4)


@pytest.mark.parametrize("channels_last", [False, True])
def test_results_keep_the_layout(channels_last):
    x = picture((2, 8, 6, 6), "channels_last" if channels_last else "contiguous", 0)
    for y in (
        dispatch.upsample2d(x, make_filter()),
        dispatch.bias_act(x),
        dispatch.filtered_lrelu(x, torch.ones(2), torch.ones(2), up=2, down=2),
    ):
        assert y.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def test_bfloat16_is_rounded_once():
    x = picture((2, 8, 9, 9), "contiguous", 0, torch.bfloat16)
    filter, bias = make_filter(), torch.randn(8)
    for run in (
        lambda x: dispatch.upsample2d(x, filter),
        lambda x: dispatch.bias_act(x, bias),
        lambda x: dispatch.filtered_lrelu(x, torch.ones(2) / 2, torch.ones(2) / 2, bias, up=2, down=2),
    ):
        torch.testing.assert_close(run(x), run(x.float()).bfloat16(), rtol=0.0, atol=0.0)


def double(*shape: int, device: str) -> Tensor:
    return torch.randn(shape, dtype=torch.float64).to(device).requires_grad_()


def upfirdn_case(layout: str, device: str = "cpu") -> tuple:
    filter = torch.randn(3, 4, dtype=torch.float64).to(device)
    x = picture((2, 2, 4, 5), layout, 0, torch.float64).to(device).requires_grad_()
    return (lambda x: native.upfirdn2d(x, filter, up=3, down=2, padding=(2, 1, 4, -1))), (x,)


def epilogue_case(layout: str, device: str = "cpu") -> tuple:
    def run(x: Tensor, scale: Tensor, noise: Tensor, strength: Tensor, bias: Tensor) -> Tensor:
        return native.modulated_epilogue(x, scale, noise=noise, strength=strength, bias=bias, clamp=2.0)

    x = picture((2, 3, 2, 3), layout, 0, torch.float64).to(device).requires_grad_()
    scale = (torch.rand(2, 3, dtype=torch.float64) + 0.5).to(device).requires_grad_()
    return run, (x, scale, *(double(*size, device=device) for size in ((1, 1, 2, 3), (), (3,))))


def filtered_case(layout: str, device: str = "cpu") -> tuple:
    first, second = (torch.randn(size, dtype=torch.float64).to(device) for size in ((5,), (4, 4)))

    def run(x: Tensor, bias: Tensor) -> Tensor:
        return native.filtered_lrelu(x, first, second, bias, up=2, down=3, padding=(3, 2, 4, 1), clamp=3.0)

    x = picture((1, 2, 4, 5), layout, 0, torch.float64).to(device).requires_grad_()
    return run, (x, double(2, device=device))


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("case", [upfirdn_case, epilogue_case, filtered_case])
def test_derivatives(case, layout):
    run, leaves = case(layout)
    assert torch.autograd.gradcheck(run, leaves)
    assert torch.autograd.gradgradcheck(run, leaves)


def test_linear_and_partial_gradients():
    x, bias = double(3, 4, device="cpu"), double(4, device="cpu")
    run = lambda x, bias: native.bias_act(x, bias, act="linear", gain=0.5, clamp=0.4)  # noqa: E731
    assert torch.autograd.gradcheck(run, (x, bias)) and torch.autograd.gradgradcheck(run, (x, bias))
    scale = torch.rand(3, 4, dtype=torch.float64) + 0.5
    run_scaled = lambda x: native.affine_lrelu(x, scale=scale)  # noqa: E731
    assert torch.autograd.gradcheck(run_scaled, x) and torch.autograd.gradgradcheck(run_scaled, x)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "crop"])
def test_operators_are_well_behaved(layout):
    ops = torch.ops.unified_stylegan
    x = picture((2, 3, 6, 6), layout, 0).detach().requires_grad_()
    scale, bias, noise = (torch.rand(size, requires_grad=True) for size in ((2, 3), (3,), (1, 36)))
    line = torch.randn(1, 4)
    y = ops.affine_lrelu(x, scale, bias, noise, 0.2, 1.4, 1.0).detach()
    filtered = (line, line, line, line, 2, 2, [2, 1, 2, 1], 0.2, 1.0)
    calls = (
        (ops.upfirdn2d.default, (x, make_filter(), 2, 1, [2, 1, 2, 1], False, 4.0)),
        (ops.affine_lrelu.default, (x, scale, bias, noise, 0.2, 1.4, 1.0)),
        (ops.affine_lrelu_backward.default, (torch.randn_like(y), y, x, scale, 0.2, 1.4, 1.0)),
        (ops.affine_lrelu_backward.default, (torch.randn_like(y), y, None, None, 0.2, 1.4, 1.0)),
        (ops.lrelu_gate.default, (torch.randn_like(y).requires_grad_(), y, 0.2, 1.4, 1.0)),
        (ops.filtered_lrelu.default, (x, bias, *filtered)),
        (ops.filtered_lrelu_gated.default, (torch.randn_like(x), x.detach(), bias.detach(), *filtered, False)),
    )
    for operator, arguments in calls:
        torch.library.opcheck(operator, arguments)


def test_torch_compile_goes_through():
    filter, line = make_filter(), torch.rand(4)

    def run(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        y = dispatch.upfirdn2d(x, filter, padding=(2, 1, 2, 1), gain=4.0)
        y = dispatch.modulated_epilogue(y, scale, noise=torch.ones(8, 8), strength=0.1, bias=bias, clamp=1.0)
        y = dispatch.filtered_lrelu(y, line, line, bias, up=2, down=2, padding=(3, 2))
        return dispatch.bias_act(y, bias)

    leaves = [torch.randn(2, 3, 8, 8), torch.rand(2, 3), torch.randn(3)]
    for leaf in leaves:
        leaf.requires_grad_()
    want, got = run(*leaves), torch.compile(run, fullgraph=True, backend="aot_eager")(*leaves)
    close(got, want)
    for mine, theirs in zip(
        torch.autograd.grad(got.square().sum(), leaves),
        torch.autograd.grad(want.square().sum(), leaves),
        strict=True,
    ):
        close(mine, theirs, 1e-4)


def test_result_does_not_depend_on_threads():
    x = picture((2, 20, 40, 50), "contiguous", 0).requires_grad_()
    bias, scale, line = torch.randn(20).requires_grad_(), torch.rand(2, 20).requires_grad_(), torch.rand(6)

    def run() -> list[Tensor]:
        y = dispatch.modulated_epilogue(dispatch.upsample2d(x, make_filter()), scale, bias=bias)
        y = dispatch.filtered_lrelu(y, line, line, bias, up=2, down=2, padding=(5, 4))
        return [y, *torch.autograd.grad(y.square().mean(), (x, bias, scale))]

    threads = torch.get_num_threads()
    one = run()
    try:
        torch.set_num_threads(3)
        several = run()
    finally:
        torch.set_num_threads(threads)
    for a, b in zip(one, several, strict=True):
        close(a, b)


def test_torch_takes_what_kernels_do_not():
    x = torch.randn(1, 2, 6, 6)
    half = dispatch.bias_act(x.half(), torch.zeros(2))
    assert half.dtype == torch.float16  # no half precision kernel on the CPU
    learned = make_filter().requires_grad_()
    dispatch.upsample2d(x, learned).sum().backward()
    assert learned.grad is not None and learned.grad.abs().sum() > 0
    close(*both(dispatch.bias_act, x, None, gain=-1.0))


def test_without_compiler_an_error_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("UNIFIED_CACHE", str(tmp_path))
    monkeypatch.setattr(shutil, "which", lambda *args, **keywords: None)
    for target in build.TARGETS:
        with pytest.raises(UserError, match="plain torch"):
            build.build(target)
        assert build.find(target) is None


def test_failed_compilation_leaves_nothing_behind(monkeypatch, tmp_path):
    sources = tmp_path / "csrc" / "cpu"
    sources.mkdir(parents=True)
    (sources / "broken.cpp").write_text("this is no C++")
    monkeypatch.setattr(build, "SOURCES", sources.parent)
    monkeypatch.setenv("UNIFIED_CACHE", str(tmp_path / "cache"))
    with pytest.raises(UserError, match=r"broken\.cpp"):
        build.build("cpu", jobs=1)
    assert [path.suffix for path in (tmp_path / "cache" / "kernels").iterdir()] == [".lock"]


def test_what_a_killed_build_left_is_cleared_away(monkeypatch, tmp_path):
    sources = tmp_path / "csrc" / "cpu"
    sources.mkdir(parents=True)
    (sources / "small.cpp").write_text("int unified_small() { return 1; }")
    monkeypatch.setattr(build, "SOURCES", sources.parent)
    monkeypatch.setenv("UNIFIED_CACHE", str(tmp_path / "cache"))
    left = build.cache_folder() / f"building-cpu-{build.plan('cpu').key}-killed"
    other = build.cache_folder() / "building-cuda-0123-running"
    for folder in (left, other):
        folder.mkdir(parents=True)
        (folder / "small.o").write_text("half of it")
    assert build.build("cpu", jobs=1).is_file()
    assert other.exists() and not left.exists()


def test_lock_goes_with_its_process(monkeypatch, tmp_path):
    """A process that dies while it builds does not keep others from building."""
    lock = tmp_path / "some.lock"
    holder = (
        f"import fcntl, time; f = open({str(lock)!r}, 'a'); fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True)"
    )
    process = subprocess.Popen([sys.executable, "-c", holder + "; time.sleep(60)"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    process.kill()
    process.wait()
    with build._locked(lock):
        pass


def test_name_of_the_library_follows_its_sources(monkeypatch, tmp_path):
    copy = tmp_path / "csrc"
    shutil.copytree(build.SOURCES, copy)
    before = build.plan("cpu").key
    monkeypatch.setattr(build, "SOURCES", copy)
    assert build.plan("cpu").key == before
    with (copy / "common.h").open("a") as file:
        file.write("// changed\n")
    assert build.plan("cpu").key != before


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc to compile the CUDA kernels with")
@pytest.mark.parametrize("source", ["affine_lrelu", "filtered_lrelu", "upfirdn2d"])
def test_cuda_sources_compile_without_warnings(source, tmp_path):
    plan = build.plan("cuda")
    command = [plan.compiler, *plan.flags, "-c", str(build.SOURCES / "cuda" / f"{source}.cu"), "-o", tmp_path / "x.o"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout + done.stderr == ""


@pytest.fixture(scope="module")
def emulated():
    from backbones.stylegan.ops.native import operators

    declared = operators.define("unified_stylegan_emulated")
    torch.ops.load_library(str(build.build("emulated", jobs=1)))
    yield torch.ops.unified_stylegan_emulated
    del declared


DEVICES = ["emulated", pytest.param("cuda", marks=pytest.mark.gpu)]


def on(device: str, request) -> tuple:
    """(operators, a function that brings arguments to the device)."""
    if device == "emulated":
        return request.getfixturevalue("emulated"), lambda value: value
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    native.load("cuda")
    return torch.ops.unified_stylegan, lambda value: value.cuda() if isinstance(value, Tensor) else value


def same(device: str, request, name: str, *arguments, tolerance: float = 2e-5) -> None:
    """The CUDA kernel against the CPU kernel, which the tests above hold against torch."""
    operators, move = on(device, request)
    got = getattr(operators, name)(*map(move, arguments))
    want = getattr(torch.ops.unified_stylegan, name)(*arguments)
    for a, b in zip(*((r if isinstance(r, tuple) else (r,)) for r in (got, want)), strict=True):
        assert a.stride() == b.stride()
        close(a.cpu(), b, tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("channels", [8, 3])
def test_cuda_upfirdn2d(device, layout, channels, request):
    x = picture((2, channels, 13, 70), layout, 0)
    for taps in ((4, 3), (6, 5)):
        for up in (1, 2, 3):
            for down in (1, 2, 3):
                arguments = (x, torch.randn(taps), up, down, [2, 1, -1, 5], up == down, 1.5)
                same(device, request, "upfirdn2d", *arguments)


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("shape", [(2, 8, 32, 64), (2, 3, 9, 11), (3, 12, 1, 1)])
def test_cuda_affine_lrelu(device, layout, shape, request):
    x = picture(shape, layout, 0)
    n, c, h, w = shape
    scale, bias, tail = torch.rand(n, c), torch.randn(c), (0.2, 1.4, 1.0)
    for noise in (torch.randn(1, h * w), torch.randn(n, h * w), None):
        same(device, request, "affine_lrelu", x, scale, bias, noise, *tail)
    same(device, request, "affine_lrelu", x, None, None, None, 1.0, 0.5, -1.0)
    y = torch.ops.unified_stylegan.affine_lrelu(x, scale, bias, None, *tail)
    grad = torch.randn_like(y)
    for kept in (x, None):
        for factor in (scale, None):
            same(device, request, "affine_lrelu_backward", grad, y, kept, factor, *tail)
    same(device, request, "lrelu_gate", grad, y, *tail)


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("up, down, before", [(2, 2, 5), (4, 2, 8), (1, 2, 9), (2, 1, -1), (2, 3, 9)])
def test_cuda_filtered_lrelu(device, layout, up, down, before, request):
    x, bias = picture((1, 3, 27, 40), layout, 0), torch.randn(3)
    first, second = torch.randn(1, 12) / 3, torch.randn(2, 6) / 3
    tail = (bias, first, first, second, second.flip(1), up, down, [before, 9, 12, before], 0.2, 1.0)
    same(device, request, "filtered_lrelu", x, *tail)
    y = torch.ops.unified_stylegan.filtered_lrelu(x, *tail)
    same(device, request, "filtered_lrelu_gated", torch.randn_like(y), x, *tail, True)
    same(device, request, "filtered_lrelu_gated", torch.randn_like(x), x, *tail, False)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("case", [upfirdn_case, epilogue_case, filtered_case])
def test_derivatives_on_a_gpu(case, layout):
    native.load("cuda")
    run, leaves = case(layout, "cuda")
    # Sums of a block are added up in a fixed order, so that results repeat exactly.
    assert torch.autograd.gradcheck(run, leaves)
    assert torch.autograd.gradgradcheck(run, leaves)
