"""What a driver calls a card is a name of it."""

from kvsim.catalog.accelerators import accelerator_names, find_accelerator


def test_a_driver_and_a_catalogue_mean_the_same_card():
    named = [find_accelerator(name) for name in accelerator_names()]
    products = {each.product_name: each.name for each in named if each.product_name}
    assert len(products) > 30
    assert {find_accelerator(product).name: product for product in products} == {
        name: product for product, name in products.items()
    }
