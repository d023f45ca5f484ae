import pytest
import torch

from src.training.fit import use_processor


@pytest.fixture(autouse=True)
def restored():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
def test_products_are_as_exact_as_the_config_says(precision):
    use_processor({"threads": 1, "matmul_precision": precision})
    assert (torch.get_num_threads(), torch.get_float32_matmul_precision()) == (1, precision)
    left, right = torch.rand(2, 64, 512, generator=torch.Generator().manual_seed(0))
    product, exact = left @ right.T, left.double() @ right.T.double()
    relative = ((product - exact) / exact).abs().max()
    assert relative < (1e-5 if precision == "highest" else 2**-8)  # bfloat16 keeps 8 bits of each factor
