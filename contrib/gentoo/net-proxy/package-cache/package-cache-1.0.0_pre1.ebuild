# Distributed under the terms of the GNU General Public License v3 or later

EAPI=8

DISTUTILS_USE_PEP517=hatchling
PYTHON_COMPAT=( python3_{11..14} )

inherit distutils-r1 pypi shell-completion systemd

DESCRIPTION="Caching proxy for package downloads"
HOMEPAGE="https://package-cache.example/"

LICENSE="GPL-3+"
SLOT="0"
KEYWORDS="~amd64 ~arm64 ~x86"
IUSE="curl requests zstd"

RDEPEND="
	acct-group/package-cache
	acct-user/package-cache
	>=dev-python/platformdirs-2.6[${PYTHON_USEDEP}]
	>=dev-python/tqdm-4.60[${PYTHON_USEDEP}]
	>=www-servers/gunicorn-20.1[${PYTHON_USEDEP}]
	curl? ( >=dev-python/pycurl-7.45[${PYTHON_USEDEP}] )
	requests? ( >=dev-python/requests-2.32[${PYTHON_USEDEP}] )
	zstd? ( $(python_gen_cond_dep '>=dev-python/zstandard-0.22[${PYTHON_USEDEP}]' python3_{11..13}) )
"

# The tests start servers, and other programs to talk to them.
RESTRICT="test"

DOCS=( README.md contrib/doc )

python_install_all() {
	distutils-r1_python_install_all

	newinitd contrib/openrc/init.d/package-cache package-cache
	newconfd contrib/openrc/conf.d/package-cache package-cache
	systemd_dounit contrib/systemd/package-cache.{service,socket}
	insinto /etc/logrotate.d
	doins contrib/logrotate/package-cache

	doman contrib/man/package-cache.1 contrib/man/package-cache.toml.5
	newbashcomp contrib/completion/package-cache.bash package-cache
	dozshcomp contrib/completion/_package-cache
	dofishcomp contrib/completion/package-cache.fish

	keepdir /etc/package-cache /var/cache/package-cache /var/log/package-cache
	fowners package-cache:package-cache /var/{cache,log}/package-cache
}
