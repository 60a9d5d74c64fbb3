"""How long it takes to bring to the devices what is kept beside them, and which batch hides that."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sim.physics.matrices import kv_elements_per_layer
from sim.physics.memory import layer_weight_bytes_per_device
from sim.physics.roofline import Floats
from sim.physics.totals import Totals

if TYPE_CHECKING:
    from sim.physics.iteration import IterationModel


def host_bytes_per_second(model: IterationModel) -> float:
    """Return what one device reads from the memory of its host [bytes/s]."""
    return model.hardware.host_link.bytes_per_second * model.efficiency.links.host


def weights_seconds(model: IterationModel) -> float:
    """Return the time to bring the layers of one iteration to every device [s]; 0 where they stay there."""
    source = model.placement.weights_from
    if source == "device":
        return 0.0
    moved_bytes = layer_weight_bytes_per_device(model.model, model.precision, model.parallelism)
    rate = host_bytes_per_second(model)
    if source == "nvme":
        rate = min(rate, model.placement.nvme_bytes_per_second / model.parallelism.tensor)
    return moved_bytes / rate


def link_seconds(model: IterationModel, totals: Totals) -> Floats:
    """Return the time of all that comes over the host link in iterations [s], shape of the totals."""
    seconds = np.where(np.asarray(totals.tokens) > 0, weights_seconds(model), 0.0)
    if model.placement.kv_on == "device":
        return seconds
    cached, in_window = totals.prompts[1], totals.prompts_in_window[1]
    whole, windowed = model.attention.whole_layers, model.attention.window_layers
    keys = whole * (np.asarray(totals.decode_kv_tokens, dtype=np.float64) + np.asarray(cached))
    keys = keys + windowed * (np.asarray(totals.keys_in_window, dtype=np.float64) + np.asarray(in_window))
    key_bytes = kv_elements_per_layer(model.model, model.parallelism) * model.precision.kv_bytes
    brought: Floats = seconds + keys * key_bytes / host_bytes_per_second(model)
    return brought


def hiding_tokens(model: IterationModel) -> int:
    """Return the fewest new tokens of an iteration whose products take as long as bringing the weights; 1 at least.

    Attention, which only adds to what hides the transfer, is left out. For a dense model whose products reach a part c
    of the peak, it is about ``bytes per weight * c * peak / (2 * link rate)``, whatever the size of the model.
    """
    seconds = weights_seconds(model)
    most = 1
    while float(model.token_seconds(most)) < seconds:
        most *= 2
    least = most // 2
    while most - least > 1:
        middle = (least + most) // 2
        if float(model.token_seconds(middle)) < seconds:
            least = middle
        else:
            most = middle
    return most
