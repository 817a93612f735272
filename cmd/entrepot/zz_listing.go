package main

import (
	"context"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/entrepot/entrepot/upstream"
)

type listing struct{ *upstream.Client }

func (l listing) Tags(ctx context.Context, repo string) ([]string, error) {
	t, _, err := l.Client.Tags(ctx, repo, 0, "")
	return t, err
}
func (l listing) Referrers(ctx context.Context, repo string, d v1.Hash) ([]byte, error) {
	b, _, err := l.Client.Referrers(ctx, repo, d, "")
	return b, err
}
