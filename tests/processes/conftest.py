from tests.train.conftest import data, whole

__all__ = ["data", "whole"]
