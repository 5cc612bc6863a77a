"""Peak rates of devices, as their makers state them: dense bf16, without sparsity. An unlisted device has no MFU."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Peak:
    """Dense bf16 operations a second of a device whose name contains `name`, and where that is stated."""

    name: str
    teraflops: float
    source: str


PEAKS = (
    Peak("H200", 989.0, "NVIDIA H200 Tensor Core GPU datasheet"),
    Peak("H100 PCIe", 756.0, "NVIDIA H100 Tensor Core GPU datasheet, PCIe"),
    Peak("H100", 989.0, "NVIDIA H100 Tensor Core GPU datasheet, SXM"),
    Peak("A100", 312.0, "NVIDIA A100 Tensor Core GPU datasheet"),
    Peak("L20", 119.5, "NVIDIA L20 datasheet; the peak that L20-Edu's report uses (arXiv 2606.22189)"),
    Peak("RTX 4090", 165.2, "NVIDIA Ada GPU architecture whitepaper, appendix A, fp32 accumulation"),
)


def peak_of(device_name: str) -> Peak | None:
    """The peak of a device by the name that its driver reports, or None: then there is nothing to divide by."""
    words = f" {device_name.replace('-', ' ')} "
    return next((peak for peak in PEAKS if f" {peak.name} " in words), None)
