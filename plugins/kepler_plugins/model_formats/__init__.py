"""Model formats: how fitted regressors are stored without pickle, and how they are evaluated."""
