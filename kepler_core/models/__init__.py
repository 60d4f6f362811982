"""Power models that are stored without pickle and make predictions without the library that fitted them."""
