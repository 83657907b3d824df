# Made by contrib/dev/generate.py; change what it reads.

_package_cache_files() {
	compopt -o filenames 2>/dev/null
	mapfile -t COMPREPLY < <(compgen "$1" -- "$2")
}

_package_cache() {
	local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]} command="" options="" words=""
	COMPREPLY=()
	case ${COMP_WORDS[1]} in
	get|cat|add|ls|show|info|why|gc|fsck|rm|restore|purge|pin|unpin|health|config|import|export|warm)
		((COMP_CWORD > 1)) && command=${COMP_WORDS[1]}
		;;
	esac
	case $command:$previous in
	:--config|:--cache|:--access-log|get:-o|get:--output|get:--config|get:--cache|cat:--config|cat:--cache|add:--config|add:--cache|ls:--config|ls:--cache|show:--config|show:--cache|info:--config|info:--cache|why:--config|why:--cache|gc:--config|gc:--cache|fsck:--config|fsck:--cache|rm:--config|rm:--cache|restore:--config|restore:--cache|purge:--config|purge:--cache|pin:--config|pin:--cache|unpin:--config|unpin:--cache|health:--config|health:--cache|health:--access-log|config:--config|config:--cache|config:--access-log|import:--prefix|import:--config|import:--cache|export:--prefix|export:--config|export:--cache|warm:--config|warm:--cache)
		_package_cache_files -f "$current"
		return
		;;
	:--source|:--max-size|:--min-free|:--max-age|:--listen|:--allow|:--connect|:--host|:--port|:--workers|:--threads|:--connections|:--downloads|get:--query|get:--header|get:--post|get:--json|get:--file|get:--mirror|get:--sha256|get:--retries|get:--timeout|get:--max-size|get:--label|cat:--accept|cat:--max-size|add:--uri|add:--param|add:--attr|add:--label|add:--ext|ls:--attr|ls:--status|ls:--label|show:--accept|info:--source|info:--max-size|info:--min-free|info:--max-age|why:--accept|why:--source|gc:--max-size|gc:--min-free|gc:--max-age|fsck:--source|rm:--accept|rm:--version|restore:--accept|restore:--version|purge:--accept|purge:--older|pin:--accept|unpin:--accept|health:--wait|health:--source|health:--max-size|health:--min-free|health:--max-age|health:--listen|health:--allow|health:--connect|health:--host|health:--port|health:--workers|health:--threads|health:--connections|health:--downloads|config:--source|config:--max-size|config:--min-free|config:--max-age|config:--listen|config:--allow|config:--connect|config:--host|config:--port|config:--workers|config:--threads|config:--connections|config:--downloads|warm:--jobs|warm:--rate|warm:--accept|warm:--source|warm:--max-size|warm:--min-free|warm:--max-age)
		return
		;;
	:--scrub|health:--scrub|config:--scrub)
		mapfile -t COMPREPLY < <(compgen -W "never" -- "$current")
		return
		;;
	:--server|health:--server|config:--server)
		mapfile -t COMPREPLY < <(compgen -W "wsgiref gunicorn" -- "$current")
		return
		;;
	:--access-format|health:--access-format|config:--access-format)
		mapfile -t COMPREPLY < <(compgen -W "combined json" -- "$current")
		return
		;;
	get:--refresh)
		mapfile -t COMPREPLY < <(compgen -W "never check always json-metadata" -- "$current")
		return
		;;
	cat:--kind|ls:--kind|show:--kind|rm:--kind|restore:--kind|purge:--kind|pin:--kind|unpin:--kind)
		mapfile -t COMPREPLY < <(compgen -W "proxy item" -- "$current")
		return
		;;
	export:--layout)
		mapfile -t COMPREPLY < <(compgen -W "flat hashed" -- "$current")
		return
		;;
	esac
	case $command in
	"")
		options="--config --source --balance --cache --scrub --max-size --min-free --max-age --listen --allow --connect --host --port --server --workers --threads --connections --downloads -v --verbose --access-log --access-format --syslog --help --version"
		;;
	"get")
		options="-o --output --config --cache -v --verbose --query --header --post --json --file --mirror --sha256 --refresh --retries --timeout --max-size --label --help"
		;;
	"cat")
		options="--accept --kind --raw --max-size --config --cache -v --verbose --help"
		;;
	"add")
		options="--uri --param --attr --label --ext --config --cache -v --verbose --help"
		[[ $current == -* ]] || _package_cache_files -f "$current"
		;;
	"ls")
		options="--trash --kind --attr --status --label --json --config --cache -v --verbose --help"
		;;
	"show")
		options="--accept --kind --json --config --cache -v --verbose --help"
		;;
	"info")
		options="--json --source --config --cache -v --verbose --max-size --min-free --max-age --help"
		;;
	"why")
		options="--accept --json --source --config --cache -v --verbose --help"
		[[ $current == -* ]] || _package_cache_files -f "$current"
		;;
	"gc")
		options="--dry-run --json --config --cache -v --verbose --max-size --min-free --max-age --help"
		;;
	"fsck")
		options="--repair --json --source --config --cache -v --verbose --help"
		;;
	"rm")
		options="--accept --kind --version --config --cache -v --verbose --help"
		;;
	"restore")
		options="--accept --kind --version --config --cache -v --verbose --help"
		;;
	"purge")
		options="--accept --kind --all --older --config --cache -v --verbose --help"
		;;
	"pin")
		options="--accept --kind --config --cache -v --verbose --help"
		;;
	"unpin")
		options="--accept --kind --config --cache -v --verbose --help"
		;;
	"health")
		options="--wait --alive --config --source --balance --cache --scrub --max-size --min-free --max-age --listen --allow --connect --host --port --server --workers --threads --connections --downloads -v --verbose --access-log --access-format --syslog --help"
		;;
	"config")
		options="--json --config --source --balance --cache --scrub --max-size --min-free --max-age --listen --allow --connect --host --port --server --workers --threads --connections --downloads -v --verbose --access-log --access-format --syslog --help"
		words="check show init"
		[[ $current == -* ]] || _package_cache_files -f "$current"
		;;
	"import")
		options="--prefix --link --json --config --cache -v --verbose --help"
		[[ $current == -* ]] || _package_cache_files -d "$current"
		;;
	"export")
		options="--prefix --layout --reflink --link --copy --json --config --cache -v --verbose --help"
		[[ $current == -* ]] || _package_cache_files -d "$current"
		;;
	"warm")
		options="--jobs --rate --accept --json --source --config --cache -v --verbose --max-size --min-free --max-age --help"
		[[ $current == -* ]] || _package_cache_files -f "$current"
		;;
	esac
	((COMP_CWORD == 1)) && words="get cat add ls show info why gc fsck rm restore purge pin unpin health config import export warm"
	[[ $current == -* ]] && words=$options
	local IFS=$' \t\n'
	mapfile -t -O "${#COMPREPLY[@]}" COMPREPLY < <(compgen -W "$words" -- "$current")
}

complete -F _package_cache package-cache
