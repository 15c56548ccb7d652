"""How much each visual token has to do with an answer: explainability relevance, and first-layer attention."""

from model_wrappers.relevance.attention import first_layer_attention
from model_wrappers.relevance.streaming import visual_relevance

__all__ = ["first_layer_attention", "visual_relevance"]
