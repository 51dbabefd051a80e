"""Light on a surface: an environment in spherical harmonics, and what a material gives back of it.

DynTet learns a picture of 512 px for the environment, as nvdiffrec does. Here it is 16 coefficients a colour: a face has no mirror in
it, so more could not be told from its frames, and what can be told is not blurred by a filter for every roughness. The light stands
still with the camera, and the head turns in it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

ORDERS = (0, *[1] * 3, *[2] * 5, *[3] * 7)  # of the 16 harmonics
COSINE = (math.pi, 2 * math.pi / 3, math.pi / 4, 0.0)  # of a clamped cosine, by order (Ramamoorthi and Hanrahan, 2001)
DIELECTRIC = 0.04  # reflectance of skin, hair and teeth looked at straight


def powers(direction: Tensor, order: int) -> Tensor:  # [N,3] -> [N,4^order]
    """Products of `order` of the numbers 1, x, y, z: every polynomial of that order is a row of them times a matrix, in a few
    operations in place of dozens."""
    one = functional.pad(direction, (1, 0), value=1.0)
    found = one
    for _ in range(order - 1):
        found = (found[:, :, None] * one[:, None]).flatten(1)
    return found


def _table() -> Tensor:  # [64,16]
    """The real spherical harmonics of orders 0 to 3, as numbers by which `powers` are multiplied."""
    terms = (
        {"": 0.28209479177387814},
        {"y": 0.4886025119029199}, {"z": 0.4886025119029199}, {"x": 0.4886025119029199},
        {"xy": 1.0925484305920792}, {"yz": 1.0925484305920792}, {"zz": 0.9461746957575601, "": -0.31539156525252005},
        {"xz": 1.0925484305920792}, {"xx": 0.5462742152960396, "yy": -0.5462742152960396},
        {"xxy": 1.7701307697799304, "yyy": -0.5900435899266435}, {"xyz": 2.890611442640554},
        {"yzz": 2.285228997322329, "y": -0.4570457994644658}, {"zzz": 1.865881662950577, "z": -1.1195289977703462},
        {"xzz": 2.285228997322329, "x": -0.4570457994644658}, {"xxz": 1.445305721320277, "yyz": -1.445305721320277},
        {"xxx": 0.5900435899266435, "xyy": -1.7701307697799304},
    )  # fmt: skip
    table = torch.zeros(64, 16)
    for k, polynomial in enumerate(terms):
        for letters, factor in polynomial.items():
            first, second, third = ("1xyz".index(letter) for letter in letters.rjust(3, "1"))
            table[first * 16 + second * 4 + third, k] = factor
    return table


def harmonics(direction: Tensor) -> Tensor:  # [N,3] unit length -> [N,16]
    """The real spherical harmonics of orders 0 to 3."""
    return powers(direction, 3) @ _table().to(direction)


class Environment(nn.Module):
    """Light from everywhere, at first white and even: `coefficients` [16,3]."""

    cubic: Tensor
    square: Tensor
    order: Tensor
    falloff: Tensor

    def __init__(self) -> None:
        super().__init__()
        start = torch.zeros(16, 3)
        start[0] = 1 / 0.28209479177387814
        self.coefficients = nn.Parameter(start)
        orders, table = torch.tensor(ORDERS), _table()
        self.register_buffer("cubic", table, persistent=False)
        self.register_buffer("square", table[:16] * torch.tensor([COSINE[k] / math.pi for k in ORDERS]), persistent=False)
        self.register_buffer("order", functional.one_hot(orders, 4)[..., None].float(), persistent=False)  # [16,4,1]
        self.register_buffer("falloff", torch.tensor([-0.5 * k * (k + 1) for k in range(4)]), persistent=False)

    def irradiance(self, normal: Tensor) -> Tensor:  # [N,3] -> [N,3]
        """Light that falls on a surface, over pi: a white matt surface looks like this. A cosine sees nothing of order 3."""
        return powers(normal, 2) @ (self.square @ self.coefficients)

    def mirrored(self, direction: Tensor, roughness: Tensor) -> Tensor:  # [N,3], [N,1] -> [N,3]
        """Light from about a direction, blurred as a rough surface mirrors it: a lobe of variance roughness^4, under which an order l
        keeps exp(-l (l + 1) variance / 2)."""
        each = powers(direction, 3) @ (self.cubic @ (self.order * self.coefficients[:, None]).flatten(1))  # [N,12], order by order
        return (each.unflatten(1, (4, 3)) * torch.exp(roughness**4 * self.falloff)[..., None]).sum(1)

    def uneven(self) -> Tensor:
        """How coloured the light is: zero where it is white from everywhere. A prior, for the same picture has many lights."""
        return (self.coefficients - self.coefficients.mean(1, keepdim=True)).square().mean()


def shade(light: Environment, normal: Tensor, view: Tensor, colour: Tensor, material: Tensor) -> Tensor:
    """What is seen of a surface: a matt and a shining part (Karis, "Real shading in Unreal Engine 4", 2013; his fit of the
    reflectance for mobile devices, 2014, in place of a table).

    Args:
        normal: [N,3] unit length. view: [N,3] unit length, from the surface to the eye; both in the light's axes.
        colour: [N,3] 0..1, of the matt part and of metal. material: [N,3] 0..1: shadow, roughness, metal (the lineage's k_s).
    Returns:
        [N,3], not bounded above.
    """
    shadow, roughness, metal = material.split(1, 1)
    roughness = 0.1 + 0.9 * roughness  # k_s of DynTet's settings: not below 0.1
    facing = (normal * view).sum(1, keepdim=True)
    mirror = 2 * facing * normal - view
    facing = facing.clamp(1e-4, 1)
    fit = roughness * roughness.new_tensor([-1.0, -0.0275, -0.572, 0.022]) + roughness.new_tensor([1.0, 0.0425, 1.04, -0.04])
    grazing = torch.minimum(fit[:, :1].square(), 2 ** (-9.28 * facing)) * fit[:, :1] + fit[:, 1:2]
    scale, bias = -1.04 * grazing + fit[:, 2:3], 1.04 * grazing + fit[:, 3:]
    shine = ((DIELECTRIC * (1 - metal) + colour * metal) * scale + bias) * light.mirrored(mirror, roughness).clamp(min=0)
    matt = colour * (1 - metal) * light.irradiance(normal).clamp(min=0)
    return (matt + shine) * (1 - shadow)
